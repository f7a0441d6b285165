"""Check released weights against their cards.

alexnet verify NET.safetensors ... [--evaluate [--data-path PATH]]

Checks the SHA-256 of each file, the other entries of its card, and whether conv1 looks trained. With --evaluate, the
errors are measured again and compared with those of the card.
"""

from collections.abc import Mapping
from pathlib import Path

from alexnet_jax import cli, files
from alexnet_jax.errors import CheckpointError
from alexnet_jax.run.schemas import Card

#: Accepted difference of an error rate: processors round differently, which changes predictions that are nearly tied.
TOLERANCE = 0.002


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument(
        "weights", nargs="+", help=".safetensors files, each with its .json beside it"
    )
    parser.add_argument("--evaluate", action="store_true", help="measure the errors again")
    parser.add_argument("--data-path", help="with --evaluate: where the images are")
    options = parser.parse_args(arguments)
    for name in options.weights:
        print(f"{name}: {verify(Path(name), options.evaluate, options.data_path)}")


def verify(path: Path, evaluate: bool = False, data_path: str | None = None) -> str:
    """Return a sentence with the result. Raises CheckpointError if the weights differ from their card."""
    from alexnet_jax.evaluation.target import EvalTarget
    from alexnet_jax.inference import network
    from alexnet_jax.interop import release

    card = _card(path)
    if card["sha256"] != files.sha256_of(path):
        raise CheckpointError(f"{path} is not the file of its card: its SHA-256 differs")
    target = EvalTarget(path, data_path=data_path)
    run = target.trained
    network.warn_if_untrained(path, run)
    for key, found in (("config", run.config.name), ("seed", run.config.seed), ("step", run.step)):
        if card[key] != found:
            raise CheckpointError(f"{path} has {key} {found!r}, but its card says {card[key]!r}")
    if not evaluate:
        return f"matches its card, which says {_errors(card['splits'])}"
    results = release.errors_of(target)
    for split, views in card["splits"].items():
        for view, expected in views.items():
            found = results.get(split, {}).get(view)
            if found is None or found["count"] != expected["count"]:
                raise CheckpointError(
                    f"{path}: its card is for {expected['count']:,} images of {split}, but the data has "
                    f"{found['count'] if found else 0:,}"
                )
            if abs(found["top1_error"] - expected["top1_error"]) > TOLERANCE:
                raise CheckpointError(
                    f"{path}: {found['top1_error']:.2%} top-1 error on {split}, but its card says "
                    f"{expected['top1_error']:.2%}"
                )
    return f"matches its card; measured again: {_errors(results)}"


def _card(path: Path) -> Card:
    file = path.with_suffix(".json")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    remedy = "it should be the card of the weights, which alexnet release writes"
    card = files.read_json(file, Card, error=CheckpointError, remedy=remedy)
    if card is None:
        raise CheckpointError(f"cannot read {file}: there is no such file; {remedy}")
    return card


def _errors(splits: Mapping) -> str:
    """Format errors, such as '39.60% top-1 error (test, 10,000 images, center)'."""
    return "; ".join(
        f"{result['top1_error']:.2%} top-1 error ({split}, {result['count']:,} images, {view})"
        for split, views in splits.items()
        for view, result in views.items()
    )


if __name__ == "__main__":
    cli.run(main)
