from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from jobs_stub import write_lines

from spectr_jobs.errors import InputError
from spectr_jobs.inputs import sources
from spectr_jobs.inputs.compression import Damaged, decompress
from spectr_jobs.inputs.reader import START, Position, Reader, shape_of
from spectr_jobs.inputs.sources import Source, resolve
from spectr_runtime import SamplingParams, UsageError


def numbered(path: Path) -> list[tuple[int, bytes]]:
    return [(line.number, line.text) for line in sources.lines(Source(str(path), path.name))]


def compress(path: Path, content: bytes) -> Path:
    """Two frames, as appending to a compressed file makes them."""
    press = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[path.suffix]
    path.write_bytes(press(content[: len(content) // 2]) + press(content[len(content) // 2 :]))
    return path


def test_lines_keep_their_numbers_past_blank_lines_bom_and_carriage_returns(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf1\r\n\r\n  \n2\xe2\x80\xa8\n3")
    assert numbered(path) == [(1, b"1"), (4, b"2\xe2\x80\xa8"), (5, b"3")]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32-le", "UTF-32LE"),
        ("utf-32-be", "UTF-32BE"),
    ],
)
@pytest.mark.parametrize("text", ['{"prompt": "a"}\n', "{\n}", "7"])
def test_other_encodings_are_named_with_or_without_a_mark(tmp_path: Path, encoding: str, name: str, text: str):
    path = tmp_path / "in.jsonl"
    path.write_text(text, encoding=encoding)
    with pytest.raises(InputError) as caught:
        numbered(path)
    assert str(caught.value) == (
        f"in.jsonl is {name}; allowed is UTF-8. Convert it: `iconv -f {name} -t UTF-8 {path} > utf8.jsonl`."
    )


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "LONGEST_LINE", 8)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"1234567\n123456789\n")
    with pytest.raises(InputError, match=r"^in.jsonl:2: line: got more than"):
        numbered(path)


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2", "xz"])
def test_compressed_files_read_like_plain_ones(tmp_path: Path, suffix: str):
    content = b"".join(b"line %d\n" % n for n in range(20_000))
    path = compress(tmp_path / f"in.jsonl.{suffix}", content)
    assert numbered(path) == list(enumerate(content.splitlines(), 1))
    there = next(sources.lines(Source(str(path), "in"), offset=content.index(b"line 9000"), number=9001))
    assert (there.number, there.text) == (9001, b"line 9000")


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2", "xz"])
def test_a_compressed_file_that_was_cut_short_is_an_error(tmp_path: Path, suffix: str):
    path = compress(tmp_path / f"in.jsonl.{suffix}", b"a\n" * 1000)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="damaged: the file ends in the middle"):
        numbered(path)
    with path.open("rb") as raw, pytest.raises(Damaged):
        decompress(raw, path.name).read()


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2", "xz"])
def test_a_compressed_file_is_known_by_its_first_bytes(tmp_path: Path, suffix: str):
    path = compress(tmp_path / f"in.jsonl.{suffix}", b"a\nb\n" * 9)
    other = path.rename(tmp_path / "in.jsonl")
    assert len(numbered(other)) == 18
    assert sources.only_forward(Source(str(other), "in"))
    plain = tmp_path / f"plain.jsonl.{suffix}"
    plain.write_bytes(b"a\n")
    assert numbered(plain) == [(1, b"a")]
    assert not sources.only_forward(Source(str(plain), "plain"))


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2", "xz"])
def test_zeros_behind_a_frame_are_passed_over_and_other_bytes_are_not(tmp_path: Path, suffix: str):
    path = compress(tmp_path / f"in.jsonl.{suffix}", b"a\nb\n")
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100_000) + whole + bytes(512))
    assert [text for _, text in numbered(path)] == [b"a", b"b", b"a", b"b"]
    path.write_bytes(whole + b"garbage, which is no frame")
    with pytest.raises(InputError, match=r"^in.jsonl.\w+:\d+: damaged: "):
        numbered(path)


def test_zstd_windows_may_be_long(tmp_path: Path):
    settings = zstandard.ZstdCompressionParameters(window_log=28)
    path = tmp_path / "in.jsonl.zst"
    press = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    path.write_bytes(press.compress(b"a\n") + press.flush())
    assert numbered(path) == [(1, b"a")]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar in gzip", "7z"])
def test_archives_are_refused_by_their_kind(tmp_path: Path, kind: str):
    path, content = tmp_path / "in.jsonl", io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("a.jsonl", "{}")
    elif kind == "7z":
        content.write(b"7z\xbc\xaf\x27\x1c\0\4")
    else:
        with tarfile.open(fileobj=content, mode="w:gz" if kind == "tar in gzip" else "w") as tar:
            tar.addfile(tarfile.TarInfo("a.jsonl"))
    path.write_bytes(content.getvalue())
    with pytest.raises(InputError) as caught:
        numbered(path)
    shown = kind.partition(" ")[0]
    assert str(caught.value) == f"in.jsonl is a {shown} archive; allowed are files. Unpack it, and name its files."


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "in.jsonl").touch()
    (tmp_path / "other.jsonl").touch()
    assert [source.label for source in resolve([str(tmp_path)])] == ["one/in.jsonl", "other.jsonl", "two/in.jsonl"]


@pytest.mark.parametrize("names", [["missing.jsonl"], ["*.jsonl"], ["empty"], ["a.jsonl/"], ["memory://none.jsonl"]])
def test_a_name_without_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"^Input "):
        resolve(names)


def test_a_file_named_twice_is_refused(tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [])
    (tmp_path / "link.jsonl").symlink_to(path)
    with pytest.raises(UsageError, match="is the same file as"):
        resolve([str(path), str(tmp_path / "link.jsonl")])
    (source,) = resolve([str(tmp_path)])
    assert source.path == str(path)


def test_urls_open_through_fsspec():
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://folder/in.jsonl.gz", "wb") as file:
        file.write(gzip.compress(b'{"prompt": "a"}\n'))
    for name in ("memory://folder/in.jsonl.gz", "memory://folder", "memory://folder/*.gz"):
        (source,) = resolve([name])
        assert [line.text for line in sources.lines(source)] == [b'{"prompt": "a"}']
        assert sources.fingerprint(source).startswith("version:")


def test_an_unknown_kind_of_url_is_refused():
    with pytest.raises(UsageError, match="is not possible: "):
        resolve(["nowhere://in.jsonl"])


def test_a_fingerprint_changes_with_the_content(tmp_path: Path):
    source = Source(str(write_lines(tmp_path / "in.jsonl", [1])), "in.jsonl")
    before = sources.fingerprint(source)
    write_lines(tmp_path / "in.jsonl", [2])
    assert sources.fingerprint(source) != before


@pytest.fixture(params=["", ".gz", ".zst"])
def two_files(tmp_path: Path, request: pytest.FixtureRequest) -> list[Source]:
    found = []
    for name in ("a", "b"):
        lines = "".join(f'{{"id": "{name}{n}", "prompt": "x"}}\n\n' for n in range(7)).encode()
        path = tmp_path / f"{name}.jsonl{request.param}"
        path.write_bytes(lines) if not request.param else compress(path, lines)
        found.append(Source(str(path), path.name))
    return found


def test_any_order_of_shards_gives_every_record_once(two_files: list[Source]):
    shapes = [shape_of(source) for source in two_files]
    items = list(Reader(two_files, shapes, SamplingParams()).read(START, None))
    keys = [item.record.origin.key for item in items]
    assert keys == [f"{name}{n}" for name in "ab" for n in range(7)]
    starts: list[Position] = [item.position for item in items[::3]]
    for order in ([0, 1, 2, 3, 4], [0, 2, 4, 1, 3], [4, 3, 2, 1, 0], [1, 1]):
        reader = Reader(two_files, shapes, SamplingParams())
        read = [[item.record.origin.key for item in reader.read(starts[shard], 3)] for shard in order]
        assert read == [keys[3 * shard : 3 * shard + 3] for shard in order]


@pytest.mark.parametrize("two_files", [".gz", ".zst"], indirect=True)
def test_going_on_in_a_compressed_file_does_not_open_it_again(two_files: list[Source], monkeypatch: pytest.MonkeyPatch):
    items = list(Reader(two_files, ["simple", "simple"], SamplingParams()).read(START, None))
    reader = Reader(two_files, ["simple", "simple"], SamplingParams())
    opened = []
    monkeypatch.setattr(sources, "_open", lambda source, real=sources._open: opened.append(source) or real(source))
    for item in items[::2]:
        list(reader.read(item.position, 1))
    assert opened == two_files
