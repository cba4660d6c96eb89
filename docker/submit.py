#!/usr/bin/env python3
"""Run a study on the head of a Ray cluster: `ray submit` copies this file there, and it makes its own argument.

`ray submit` joins the arguments of a script with blanks and hands them to a shell on the head. To keep blanks, quotes
and `;` in settings, all arguments and the study file travel as one word of letters, digits, `-` and `_`:

    python docker/submit.py --encode studies/digits.yaml --set storage=/shared/results

prints the command to run. This file needs only the standard library and installs nothing.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import secrets
import shlex
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NoReturn

FORMAT = 1
# Linux takes arguments up to 128 KiB; the head's shell gets ours inside another one.
LONGEST_WORD = 100_000
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.ya?ml")
INSTALLED = "import puzzle_study; print(puzzle_study.__version__)"
HERE = Path(__file__).resolve().parent


class Refused(Exception):
    """One sentence that says what, where and how to fix it."""


def encode(study: Path, arguments: list[str], version: str) -> str:
    """Return the word that encodes a study file and its arguments.

    Raises:
        Refused: the file cannot be read or is too long.
    """
    try:
        text = study.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"study file {study} cannot be read ({error})") from error
    if not NAME.fullmatch(study.name):
        raise Refused(f"study file {study.name} must be named with letters, digits, . _ - and end in .yaml; rename it")
    content = {"format": FORMAT, "version": version, "name": study.name, "study": text, "arguments": arguments}
    packed = base64.urlsafe_b64encode(zlib.compress(json.dumps(content).encode(), 9)).decode().rstrip("=")
    # A leading letter, because a word that begins with - would be taken for an option.
    word = f"s{packed}"
    if len(word) > LONGEST_WORD:
        raise Refused(f"study file {study} is too long to submit; run python -m puzzle_study.tune on the head")
    return word


def decode(word: str) -> tuple[str, str, list[str], str]:
    """Return name and text of the study file, the arguments, and the version of the package that made the word.

    Raises:
        Refused: `encode` did not make this word.
    """
    try:
        if word[:1] != "s":
            raise ValueError("it does not begin with s")
        padded = word[1:] + "=" * (-len(word[1:]) % 4)
        content = json.loads(zlib.decompress(base64.b64decode(padded, altchars=b"-_", validate=True)))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        name, text, version = str(content["name"]), str(content["study"]), str(content["version"])
        arguments = [str(argument) for argument in content["arguments"]]
    except (ValueError, KeyError, TypeError, zlib.error, binascii.Error) as error:
        raise Refused(
            f"{word[:20]} was not made by `python docker/submit.py --encode STUDY.yaml …` ({error})"
        ) from error
    if not NAME.fullmatch(name):
        raise Refused(f"the study file's name {name!r} is invalid")
    return name, text, arguments, version


def run(word: str) -> NoReturn:
    """Run a word's study on this node, in place of this process.

    Raises:
        Refused: this node has another version of the package, or none.
    """
    name, text, arguments, version = decode(word)
    there = installed()
    if there != version:
        raise Refused(
            f"this node has {f'puzzle_study {there}' if there else 'no puzzle_study'} for {sys.executable}, the study "
            f"was submitted with {version}; install that version on every node"
        )
    folder = Path.home() / ".puzzle_study" / "submitted" / hashlib.sha256(text.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    study = folder / name
    temporary = folder / f".{name}.{os.getpid()}.part"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(study)
    if not any(argument.split("=")[0] == "--address" for argument in arguments):
        arguments = [*arguments, "--address", "auto"]
    os.execv(sys.executable, [sys.executable, "-m", "puzzle_study.tune", str(study), *arguments])


def installed() -> str | None:
    """Return this Python's version of the package, or None."""
    done = subprocess.run([sys.executable, "-c", INSTALLED], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def make_token() -> Path:
    """Make the cluster's token if it is missing, make its file private, and return its path."""
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    return path


def command_lines(word: str, cluster: str) -> str:
    """Return the commands that run a word on a cluster."""
    return (
        f"ray submit {shlex.quote(cluster)} {shlex.quote(shown(Path(__file__)))} {word}\n"
        f"# or, if you can reach the cluster's job server, for example with `ssh -L 8265:127.0.0.1:8265 HEAD`:\n"
        f"RAY_AUTH_MODE=token ray job submit --working-dir {shlex.quote(shown(HERE))} -- python submit.py {word}"
    )


def shown(path: Path) -> str:
    """Return a path relative to the current folder if it is below."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main(argv: list[str]) -> int:
    """Encode on the submitting machine, run on the head."""
    parser = argparse.ArgumentParser(
        usage="submit.py [--cluster FILE] --encode STUDY.yaml [OPTIONS OF puzzle_study.tune]\n"
        "       submit.py --token\n       submit.py WORD",
        description="Run a study on the head of a Ray cluster. --encode prints the `ray submit` line to run; the line "
        "contains this machine's study file. Paths in it, such as data.root and storage, are paths on the nodes. "
        "On the head the study joins the running cluster (--address auto). --token makes ~/.ray/auth_token, "
        "readable by you alone; make it before `ray up`.",
        epilog="example: python docker/submit.py --encode studies/digits.yaml --set storage=/shared/results --resume",
    )
    parser.add_argument("--cluster", metavar="FILE", default=shown(HERE / "cluster-local.yaml"), help="[%(default)s]")
    parser.add_argument("--encode", nargs=argparse.REMAINDER, help="print the commands that submit this study")
    parser.add_argument("--token", action="store_true", help="make the cluster's token")
    parser.add_argument("word", nargs="?", metavar="WORD", help="a word from --encode; runs it")
    options = parser.parse_args(argv)
    try:
        if options.token:
            print(make_token())
            return 0
        if options.encode:
            version = installed()
            if version is None:
                raise Refused(f"{sys.executable} has no puzzle_study; run this with the Python that has it")
            study, *arguments = options.encode
            print(command_lines(encode(Path(study), arguments, version), options.cluster))
            return 0
        if options.word is None:
            parser.error("give --encode STUDY.yaml, --token, or a word from --encode")
        run(options.word)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
