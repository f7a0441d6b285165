"""Name the AlexNet in a weights file, its response normalization, channel order and input, and how sure that is.

alexnet identify alexnet.pth [--json]

Reads .safetensors, .pth, .pt, .npz, .caffemodel and .onnx. Each answer is certain (the file says it, or nothing else
fits), likely (by statistics or convention) or undecided, with what would decide it. alexnet import uses the same.
"""

import json
from typing import TYPE_CHECKING, Any

from alexnet_jax import cli
from alexnet_jax.errors import printable

if TYPE_CHECKING:
    from alexnet_jax.interop.contents import Contents
    from alexnet_jax.interop.identify import Identification

LABELS = {"net": "net", "lrn": "LRN", "channels": "channels", "input": "input"}


def main(arguments: list[str]) -> None:
    """Run `alexnet identify`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("file", help="weights of any program")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    from alexnet_jax.interop import contents, identify

    read = contents.read(options.file)
    found = identify.identify(read)
    if options.json:
        print(json.dumps(_report(options.file, read, found), indent=1))
    else:
        print("\n".join(map(printable, _text(options.file, found))))


def _report(path: str, read: "Contents", found: "Identification") -> dict[str, Any]:
    """Return the output of --json."""
    return {
        "schema": 1,
        "file": path,
        "format": read.format,
        "config": found.config,
        "candidates": list(found.candidates),
        "overrides": list(found.overrides),
        "has_config": found.has_config,
        "classes": found.classes,
        **{name: claim._asdict() for name, claim in found.claims.items()},
    }


def _text(path: str, found: "Identification") -> list[str]:
    """The lines of the output."""
    width = max(map(len, LABELS.values()))
    lines = [path]
    for name, claim in found.claims.items():
        lines.append(f"  {LABELS[name]:{width}}  {claim.confidence}: {claim.value}")
        lines += [f"  {'':{width}}    - {text}" for text in claim.evidence]
        if claim.decided_by:
            lines.append(f"  {'':{width}}    - to decide: {claim.decided_by}")
    if found.config:
        arguments = " ".join([found.config, *found.overrides])
        lines.append(f"  alexnet import reads it with --config {arguments}")
    elif found.has_config:
        lines.append("  alexnet import reads it with the configuration in it")
    else:
        some = " or ".join(found.candidates) or "a config of yours"
        lines.append(f"  alexnet import needs --config: {some}")
    return lines


if __name__ == "__main__":
    cli.run(main)
