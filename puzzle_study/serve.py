"""``puzzle-study serve``: a local page for people without a shell, which scores the images that they drop on it."""

from __future__ import annotations

from pathlib import Path

import click

from puzzle_study.cli import command, device_option, fpr_option
from puzzle_study.errors import UserError

EXAMPLE = """\b
Examples:
  puzzle-study serve results/digits
  puzzle-study serve results/mvtec/best/bottle --fpr 0.01 --port 8080
"""


@command(epilog=EXAMPLE)
@click.argument("folder", type=click.Path(path_type=Path))
@fpr_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port of the page; 0 takes any that is free.",
)
@device_option
def main(folder: Path, fpr: float, port: int, device: str) -> int:
    """Serve a page on this machine that scores images with the detectors in FOLDER: results/NAME, or best/CLASS.

    Drop images on it to see their scores, anomaly maps and the threshold. It listens on loopback only: other
    machines cannot reach it, but every user of this one can. Images are not kept. Ctrl-C ends it. Exit codes: 0 done,
    2 bad input.
    """
    from puzzle_study.inference.locating import BEST, detectors_in, find_detector

    found = detectors_in(folder) or detectors_in(folder / BEST) or [find_detector(folder)]
    from puzzle_study.detectors.devices import chosen_device, keep_freed_memory
    from puzzle_study.detectors.files import read_description
    from puzzle_study.inference.judging import Judge
    from puzzle_study.inference.server import LOOPBACK, Server

    keep_freed_memory()
    for place in found:
        read_description(place)  # a damaged one is named now
    judges = {place.resolve().name: Judge(place, fpr, chosen_device(device)) for place in found}
    try:
        server = Server(judges, port)
    except OSError as error:
        raise UserError(
            f"port {port} of {LOOPBACK} cannot be used ({error.strerror or error}); give another --port"
        ) from error
    with server:
        click.echo(f"{server.address} scores images by {', '.join(judges)}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("ended", err=True)
    return 0


if __name__ == "__main__":
    main()
