"""Lines of a job's output."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from zcell.launch.output import KEPT_BYTES, LINE_BYTES, JobOutput, LineSplitter


@given(st.lists(st.binary(max_size=40)))
def test_cut_lines_joined_are_the_bytes_that_came(pieces: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)] + splitter.end()
    assert b"".join(lines) == b"".join(pieces)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines[:-1])


def test_a_line_without_end_is_cut_and_never_held_whole() -> None:
    splitter = LineSplitter()
    lines = [line for _ in range(64) for line in splitter.feed(b"x" * 10_000)]
    lines += splitter.feed(b"end\n" + b"y" * (3 * LINE_BYTES) + b"\n")
    assert max(map(len, lines)) <= LINE_BYTES
    assert sum(map(len, lines)) == 640_000 + 4 + 3 * LINE_BYTES + 1


def test_lines_reach_the_callback_the_text_and_the_file(tmp_path: Path) -> None:
    seen: list[tuple[str, bytes]] = []
    output = JobOutput(lambda stream, line: seen.append((stream, line)), tmp_path / "log")
    output.feed("stdout", b"one\ntw")
    output.feed("stderr", b"oops\n")
    output.feed("stdout", b"o\nthree \xff")
    output.end()
    output.end()
    assert seen == [("stdout", b"one\n"), ("stderr", b"oops\n"), ("stdout", b"two\n"), ("stdout", b"three \xff")]
    assert output.text() == "one\noops\ntwo\nthree \ufffd"
    assert (tmp_path / "log").read_bytes() == b"one\noops\ntwo\nthree \xff"


def test_only_the_end_of_much_output_is_kept() -> None:
    output = JobOutput()
    for number in range(3 * KEPT_BYTES // 1000):
        output.feed("stdout", b"%08d" % number + b"." * 991 + b"\n")
    text = output.text()
    assert len(text) < KEPT_BYTES + 100
    assert "earlier bytes are not kept" in text.splitlines()[0]
    assert text.endswith("." * 991 + "\n")


def test_a_callback_that_raises_is_not_called_again_and_costs_no_output() -> None:
    calls = []

    def broken(stream: str, line: bytes) -> None:
        calls.append(line)
        raise ValueError("no")

    output = JobOutput(broken)
    output.feed("stdout", b"a\nb\n")
    assert calls == [b"a\n"]
    assert output.text() == "a\nb\n"


def test_a_log_file_that_cannot_be_written_costs_no_output() -> None:
    output = JobOutput(file=Path("/dev/full"))
    output.feed("stdout", b"one\ntwo\n")
    output.end()
    assert output.text() == "one\ntwo\n"


class Blocks:
    """Takes all lines of a moment at once."""

    takes_blocks = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    def __call__(self, stream: str, lines: bytes) -> None:
        self.seen.append((stream, lines))


def test_who_takes_blocks_gets_whole_lines_in_one_piece(tmp_path: Path) -> None:
    blocks = Blocks()
    output = JobOutput(blocks, tmp_path / "log")
    output.feed("stdout", b"one\ntwo\nthr")
    output.feed("stderr", b"oops")
    output.feed("stdout", b"ee\n")
    output.feed("stdout", b"." * (LINE_BYTES + 1))
    output.end()
    expected = [("stdout", b"one\ntwo\n"), ("stdout", b"three\n"), ("stdout", b"." * (LINE_BYTES + 1)), ("stderr", b"oops")]
    assert blocks.seen == expected
    whole = b"".join(lines for _, lines in expected)
    assert output.text().encode() == whole
    assert (tmp_path / "log").read_bytes() == whole


def test_a_block_larger_than_what_is_kept_leaves_its_end() -> None:
    output = JobOutput()
    output.feed("stdout", b"." * KEPT_BYTES + b"the end\n")
    assert output.text().startswith("[8 earlier bytes are not kept]\n")
    assert output.text().endswith("the end\n")
