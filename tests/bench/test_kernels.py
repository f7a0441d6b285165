"""The kernel table: the layer of an operation, and sums of made-up and real traces."""

import json
from types import SimpleNamespace

import pytest

from alexnet_jax.errors import AlexNetError, ConfigError
from bench import kernels
from bench.kernels import OperationTime, Place

# As XLA:GPU of jax 0.11.2 prints it, shortened.
HLO = """\
HloModule jit__step, is_scheduled=true

FileNames
1 "/a/step.py"
2 "/a/optimizer.py"

FunctionNames
1 "_step"
2 "_update"
3 "_velocity.<locals>.update"
4 "train_images"

FileLocations
1 {file_name_id=1 function_name_id=1 line=31 end_line=31 column=7 end_column=60}
2 {file_name_id=1 function_name_id=2 line=31 end_line=31 column=7 end_column=60}
3 {file_name_id=2 function_name_id=3 line=31 end_line=31 column=7 end_column=60}
4 {file_name_id=2 function_name_id=4 line=31 end_line=31 column=7 end_column=60}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=2}

%gemm_fusion_dot.8_computation (parameter_0.7: bf16[512,4096]) -> bf16[4096,4096] {
  %parameter_0.7 = bf16[512,4096]{1,0} parameter(0), metadata={op_name="jit(_step)/jvp(AlexNet)/fc6/act"}
  %convert.1 = bf16[512,4096]{1,0} convert(%parameter_0.7), metadata={op_name="transpose(jvp(AlexNet))/fc7/dot"}
  ROOT %dot.8 = bf16[4096,4096]{1,0} dot(%convert.1), metadata={op_name="transpose(jvp(AlexNet))/fc7/dot"}
}

ENTRY %main.182 (state_params: f32[11,11,3,96]) -> (f32[11,11,3,96]) {
  %cudnn-conv.10 = (bf16[512,27,27,128]{3,2,1,0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$convForward", \
metadata={op_name="jit(_step)/jvp(AlexNet)/conv2/conv2._linear/conv_general_dilated" stack_frame_id=1}
  %loop_select_fusion.1 = bf16[512,55,55,96]{3,2,1,0} fusion(%y), kind=kLoop, calls=%fused_select.1, \
metadata={op_name="jit(_step)/transpose(jvp(AlexNet))/conv1/conv1._operate/select_n" stack_frame_id=1}
  %gemm_fusion_dot.8 = bf16[4096,4096]{1,0} fusion(%z), kind=kCustom, calls=%gemm_fusion_dot.8_computation
  %loop_multiply_fusion = f32[512,3]{1,0} fusion(%w), metadata={op_name="jit(_step)/jvp()/mul" stack_frame_id=4}
  %loop_add_fusion.10 = f32[96]{0} fusion(%v), metadata={op_name="jit(_step)/add" stack_frame_id=3}
  %input_reduce_fusion = f32[]{0} fusion(%u), metadata={op_name="jit(_step)/loss/reduce_sum"}
  %convolution.3 = f32[3,5,5,8]{3,2,1,0} convolution(%loop_multiply_fusion, %loop_select_fusion.1), dim_labels=b01f_01io
  %subtract = f32[3,5,5,8]{3,2,1,0} subtract(%convolution.3), metadata={op_name="jit(_step)/sub" stack_frame_id=3}
  ROOT %copy.46 = f32[11,11,3,96]{3,2,1,0} copy(%t)
}
"""
LAYERS = ["conv1", "conv2", "fc6", "fc7"]
PLACES = {
    "cudnn-conv.10": ("conv2", "forward"), "loop_select_fusion.1": ("conv1", "backward"),
    "gemm_fusion_dot.8": ("fc7", "backward"), "loop_multiply_fusion": ("images", ""),
    "loop_add_fusion.10": ("update", ""), "input_reduce_fusion": ("loss", ""),
    "convolution.3": ("conv1", "backward"), "copy.46": ("rest", ""),
}  # fmt: skip


def summed(sums, bounds=None, steps=1):
    return kernels.summed(sums, kernels.instructions(HLO), LAYERS, bounds or {}, steps)


def test_operations_belong_to_layers_by_scope_function_what_is_fused_and_neighbors():
    found = summed([OperationTime(name, name, 1.0, 1) for name in PLACES])
    assert {k["operation"]: (k["layer"], k["direction"]) for k in found["kernels"]} == PLACES


def test_functions_are_read_whichever_way_parents_are_numbered():
    assert kernels.instructions(HLO)["loop_add_fusion.10"].functions == (
        "update",
        "_update",
        "_step",
    )
    right = HLO
    for number in range(1, 4):
        right = right.replace(f"parent_frame_id={number}}}", f"parent_frame_id={number - 1}}}")
    assert kernels.instructions(right) == kernels.instructions(HLO)


def test_times_are_a_step_and_stand_beside_the_bound():
    bounds = {Place("conv1", "backward"): 2e-6, Place("conv2", "forward"): 1e-6}
    sums = [
        OperationTime("loop_select_fusion.1", "k", 40_000, 20),
        OperationTime("unknown.7", "k", 10_000, 10),
    ]
    found = summed(sums, bounds, steps=10)
    back, forward, rest = found["layers"]
    assert back == {
        "layer": "conv1", "direction": "backward", "microseconds": 4.0, "kernels": 2.0, "bound": 2.0,
    }  # fmt: skip
    assert (forward["microseconds"], forward["bound"]) == (0.0, 1.0)
    assert (rest["layer"], rest["microseconds"], rest["bound"]) == ("rest", 1.0, None)
    assert found["known_share"] == pytest.approx(0.8)
    assert [k["count"] for k in found["kernels"]] == [2.0, 1.0]


def test_a_kernel_in_a_graph_is_known_by_its_own_name():
    found = summed([OperationTime("command_buffer.2", "loop_select_fusion_1", 1.0, 1)])
    assert found["kernels"][0]["layer"] == "conv1" and found["known_share"] == 1.0


def test_a_trace_without_operations_is_an_error():
    with pytest.raises(AlexNetError, match="no operation"):
        summed([])


def event(name, start, duration, op=None):
    stats = [("hlo_op", op), ("device_ordinal", 0)] if op else [("_ct", 15)]
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=stats)


def trace(**planes):
    """plane -> {line: events}."""
    return SimpleNamespace(
        planes=[
            SimpleNamespace(
                name=name.replace("_", ":", 1),
                lines=[SimpleNamespace(name=line, events=events) for line, events in lines.items()],
            )
            for name, lines in planes.items()
        ]
    )


def test_a_gpu_has_kernels_on_streams_and_nothing_else_counts():
    kernel = [
        event("sm90_conv", 0, 300, "cudnn-conv.10"),
        event("nhwc", 300, 50, "cudnn-conv.10"),
        event("MemcpyH2D", 400, 7),
    ]
    device = {"Stream #13(Compute)": kernel, "XLA Ops": [event("x", 0, 999, "cudnn-conv.10")]}
    host = {"python": [event("x", 0, 999, "cudnn-conv.10")]}
    data = trace(**{"/device_GPU:0": device, "/host_CPU": host})
    assert sorted(kernels.sums(data)) == [
        OperationTime("MemcpyH2D", "MemcpyH2D", 7, 1),
        OperationTime("cudnn-conv.10", "sm90_conv", 350, 2),
    ]


def test_on_a_cpu_what_an_operation_calls_is_not_counted_twice():
    thread = [
        event("add.1", 10, 20, "add.1"),
        event("while.1", 0, 100, "while.1"),
        event("add.2", 30, 40, "add.2"),
        event("mul.1", 40, 10, "mul.1"),
        event("add.1", 100, 5, "add.1"),
        event("ThreadpoolListener::Record", 0, 500),
    ]
    data = trace(**{"/host_CPU": {"tf_XLAEigen/1": thread}, "/host_metadata": {}})
    found = {row.name: (row.nanoseconds, row.events) for row in kernels.sums(data)}
    assert found == {"while.1": (40, 1), "add.1": (25, 2), "add.2": (30, 1), "mul.1": (10, 1)}


@pytest.mark.full
def test_a_real_trace_of_a_small_step(tmp_path, capsys):
    path = tmp_path / "kernels.json"
    arguments = ["--config", "tests/tiny.py", "--batch", "8", "--steps", "2", "--json", str(path)]
    settings = ["--config.data.source=folder", "--peak", "0.1", "--bandwidth", "10"]
    assert kernels.main([*arguments, *settings]) == 0
    report = json.loads(path.read_text())
    assert report["graphs"] == "none" and report["known_share"] > 0.9
    rows = {(row["layer"], row["direction"]): row for row in report["layers"]}
    for place in [("images", ""), ("conv1", "forward"), ("conv2", "backward"), ("update", "")]:
        assert rows[place]["microseconds"] > 0 and rows[place]["bound"] > 0
    most = max(row["microseconds"] for row in report["layers"])
    assert most < 1e6 * report["step_seconds"] * 20
    said = capsys.readouterr().out
    assert "tiny, batch 8, float32" in said and "| conv1 | forward |" in said
    largest = said.partition("| us a step | times |")[2].splitlines()[2:]
    assert len(largest) == kernels.LARGEST and all(line.count("|") == 7 for line in largest)


def test_wrong_arguments_are_refused():
    for arguments in (["--batch", "0"], ["--steps", "0"], ["--dtype", "float8"]):
        with pytest.raises(ConfigError):
            kernels.main(arguments)
