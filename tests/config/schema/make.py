"""Make the kept run folder and weights file anew: python -m tests.config.schema.make

They are what this version writes, and every later one must read (test_schema.py). Make them anew beside the old ones,
under another name, when a checkpoint gets another schema; do not replace a folder because a change cannot read it.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from alexnet_jax import config, main
from alexnet_jax.inference import trained

HERE = Path(__file__).parent
KEPT = ("config.json", "history.jsonl", "metrics.jsonl", "results.json", "run.json", "status.json")
#: A net of 766 parameters on the embedded digits, whose classes are counted, stopped before its end.
SETTINGS = (
    "name=kept", "data.source=digits", "data.validation=0.1", "model.num_classes=None", "model.convs.conv1.features=4",
    "model.convs.conv2.features=4", "model.fcs.fc6.features=8", "train.max_steps=6", "train.checkpoint_every=6",
    "evaluation.final_views=('center',)", "schedule.layer_factors.conv1=((3.0, 0.5),)",
    "optimizer.layer_weight_decay.fc7=0.0",
)  # fmt: skip


def make(to: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "run"
        given = [f"--config.{one}" for one in SETTINGS]
        sys.argv = ["alexnet_jax/main.py", "--config", "tests/tiny.py", "--workdir", "run", *given]
        main.main([*sys.argv[1:4], str(made), *given])
        shutil.rmtree(to / "run", ignore_errors=True)
        shutil.copytree(made / "checkpoints/6", to / "run/checkpoints/6")
        for name in KEPT:
            shutil.copy(made / name, to / "run")
        status = json.loads((to / "run/status.json").read_text())
        (to / "run/status.json").write_text(json.dumps(status | {"host": "elsewhere", "pid": 1}))
        run = trained.load(to / "run")
        trained.save(to / "net.safetensors", run)
        completed = json.dumps(config.completed(run.config_tree), indent=1, sort_keys=True)
        (to / "completed.json").write_text(completed + "\n")


if __name__ == "__main__":
    make(HERE)
