"""Writing stems: what is in the files, and that none is left when anything goes wrong."""

import errno
import io
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rofo.audio import AudioFormat, AudioReader
from rofo.audio.parts import in_words
from rofo.audio.samples import decode, encode, quantise
from rofo.audio.writer import StemFiles, StemWriter
from rofo.errors import OutputWriteError, UsageError

WAV = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
KINDS = [("WAV", subtype) for subtype in WAV] + [
    ("FLAC", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24")
]


def noise(samples=1000, channels=2):
    return np.random.default_rng(samples).uniform(-1, 1, (channels, samples)).astype(np.float32)


def kind(samples=1000, channels=2, container="WAV", subtype="FLOAT"):
    return AudioFormat(44100, channels, samples, container, subtype)


def written(path, x, format, cuts=(100, 101)):
    writer = StemWriter(path, format)
    for block in np.split(x, cuts, axis=1):
        writer.write(block)
    writer.finish()
    writer.commit()
    return writer


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(("container", "subtype"), KINDS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 999, 70_001])
def test_what_is_written_can_be_read(container, subtype, channels, samples, tmp_path):
    x, format = noise(samples, channels), kind(samples, channels, container, subtype)
    written(tmp_path / "stem", x, format)
    assert files(tmp_path) == ["stem"]
    info = soundfile.info(tmp_path / "stem")
    assert (info.format, info.subtype, info.frames) == (container, subtype, samples)
    data = (tmp_path / "stem").read_bytes()
    assert container != "WAV" or int.from_bytes(data[4:8], "little") == len(data) - 8
    got = soundfile.read(tmp_path / "stem", dtype="float32", always_2d=True)[0].T
    steps = {"PCM_U8": 128, "PCM_S8": 128, "PCM_16": 2**15, "PCM_24": 2**23, "PCM_32": 2**24}.get(subtype)
    if steps is None:
        np.testing.assert_array_equal(got, x)
    else:
        np.testing.assert_allclose(
            got, np.clip(x, -1, 1 - 1 / steps), atol=0.5001 / steps
        )  # rounded, not cut
    with AudioReader(tmp_path / "stem") as reader:
        assert reader.format == format
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks()), axis=1), got)


@pytest.mark.parametrize(("container", "subtype"), KINDS)
def test_what_was_read_is_written_unchanged(container, subtype, tmp_path):
    """Integers survive the way through float32, so an untouched stem is the input."""
    written(tmp_path / "first", noise(), kind(1000, 2, container, subtype))
    with AudioReader(tmp_path / "first") as reader:
        written(tmp_path / "second", np.concatenate(list(reader.blocks()), axis=1), reader.format)
    assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()


@pytest.mark.parametrize(("container", "subtype"), KINDS)
def test_no_samples(container, subtype, tmp_path):
    format = kind(0, 2, container, subtype)
    written(tmp_path / "stem", np.zeros((2, 0), np.float32), format, cuts=())
    with AudioReader(tmp_path / "stem") as reader:
        assert reader.format == format
        assert reader.warnings == []


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32)])
def test_full_scale_clamps_and_never_wraps(subtype, bits):
    x = np.array([1.0, 2.0, 1e9, -1.0, -2.0, -1e9], np.float32)
    top, bottom = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
    assert quantise(x, bits).tolist() == [top] * 3 + [bottom] * 3
    np.testing.assert_allclose(
        decode(encode(x, subtype), subtype), [1, 1, 1, -1, -1, -1], atol=2 ** (2 - bits)
    )


def test_clipping_is_counted_and_reported(tmp_path):
    x = np.array([[0.5, 1.0, 1.5, -1.0], [-1.0001, 0, 0, 9]], np.float32)
    for subtype, count in (("PCM_16", 3), ("FLOAT", 0)):
        assert written(tmp_path / "stem", x, kind(4, 2, subtype=subtype), cuts=(1,)).clipped == count
    paths = {"vocals": tmp_path / "vocals.wav", "drums": tmp_path / "drums.wav"}
    with StemFiles(paths, kind(4, 2, subtype="PCM_16")) as stems:
        stems.write({"vocals": x, "drums": x * 0.1})
    assert stems.warnings == ("vocals: 3 samples clipped at full scale; --subtype FLOAT keeps them",)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_refused(subtype, value, tmp_path):
    x = noise()
    x[1, 7] = value
    with (
        pytest.raises(OutputWriteError, match=r"vocals\.wav: 1 non-finite samples"),
        StemFiles({"vocals": tmp_path / "out" / "vocals.wav"}, kind(subtype=subtype)) as stems,
    ):
        stems.write({"vocals": x})
    assert files(tmp_path) == []


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
@pytest.mark.parametrize("told", [999, 1001])
def test_another_length_than_told_is_refused(container, told, tmp_path):
    with (
        pytest.raises(OutputWriteError, match=f"1,000 of {told:,} samples"),
        StemFiles(
            {"vocals": tmp_path / "vocals"}, kind(told, container=container, subtype="PCM_16")
        ) as stems,
    ):
        stems.write({"vocals": noise()})
    assert files(tmp_path) == []


def test_another_number_of_channels_is_refused(tmp_path):
    writer = StemWriter(tmp_path / "x.wav", kind())
    with pytest.raises(ValueError, match="1 channels for a file of 2"):
        writer.write(noise(channels=1))
    writer.discard()


@pytest.mark.parametrize(("container", "subtype"), [("FLAC", "FLOAT"), ("WAV", "VORBIS"), ("OGG", "VORBIS")])
def test_formats_that_cannot_be_written(container, subtype, tmp_path):
    with pytest.raises(UsageError, match=f"{container} cannot hold {subtype}"):
        StemWriter(tmp_path / "x", kind(container=container, subtype=subtype))
    assert files(tmp_path) == []


def test_the_same_samples_give_the_same_bytes(tmp_path, monkeypatch):
    contents = set()
    for now in (1e9, 1.5e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        written(tmp_path / "x.wav", noise(), kind())
        contents.add((tmp_path / "x.wav").read_bytes())
    assert len(contents) == 1
    assert b"PEAK" not in contents.pop()  # libsndfile's, which holds the time


def test_a_wav_beyond_4_gib_is_rf64(tmp_path):
    writer = StemWriter(tmp_path / "long.wav", kind(2**29))
    writer.write(noise())
    writer.discard()
    writer.discard()
    assert files(tmp_path) == []
    writer = StemWriter(tmp_path / "long.wav", kind(2**29))
    writer.write(noise(100_000))  # more than is kept until it is written out
    with pytest.raises(OutputWriteError, match="100,000 of 536,870,912 samples"):
        writer.finish()
    (hidden,) = tmp_path.iterdir()
    assert hidden.read_bytes()[:4] == b"RF64"
    writer.discard()


def test_nothing_has_its_name_before_commit(tmp_path):
    writer = StemWriter(tmp_path / "vocals.wav", kind())
    writer.write(noise())
    writer.finish()
    (hidden,) = tmp_path.iterdir()
    assert hidden.name.startswith(".")
    assert writer.commit() == tmp_path / "vocals.wav"
    assert files(tmp_path) == ["vocals.wav"]
    writer.discard()
    assert files(tmp_path) == ["vocals.wav"]


def test_files_have_ordinary_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        written(tmp_path / "x.wav", noise(), kind())
    finally:
        os.umask(old)
    assert (tmp_path / "x.wav").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "name", ["naïve Ω 雪.wav", "-x.wav", os.fsdecode(b"\xff\xfe.wav"), "x" * 251 + ".wav"]
)
@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_odd_and_long_names(container, name, tmp_path):
    written(tmp_path / name, noise(), kind(container=container, subtype="PCM_16"))
    assert files(tmp_path) == [name]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_all_or_none(container, failure, tmp_path):
    out = tmp_path / "separated" / "mix"
    paths = {stem: out / f"{stem}.x" for stem in ("vocals", "drums")}
    format = kind(container=container, subtype="PCM_16")
    with pytest.raises(failure), StemFiles(paths, format) as stems:
        stems.write({"vocals": noise(), "drums": noise()})
        assert len(files(out)) == 2
        raise failure
    assert files(tmp_path) == []
    with StemFiles(paths, format) as stems:
        stems.write({"vocals": noise(), "drums": noise()})
    assert files(out) == ["drums.x", "vocals.x"]


@pytest.mark.parametrize("step", ["__init__", "finish", "commit"])
def test_an_interrupt_of_our_own_steps(step, tmp_path, monkeypatch):
    done, original = [], getattr(StemWriter, step)

    def interrupted(self, *arguments):
        if done:
            raise KeyboardInterrupt
        done.append(original(self, *arguments))

    monkeypatch.setattr(StemWriter, step, interrupted)
    paths = {stem: tmp_path / "mix" / f"{stem}.wav" for stem in ("vocals", "drums")}
    with pytest.raises(KeyboardInterrupt), StemFiles(paths, kind()) as stems:
        stems.write({"vocals": noise(), "drums": noise()})
    assert done
    assert files(tmp_path) == []


def test_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("os.fsync", lambda handle: order.append(os.fstat(handle).st_size))
    monkeypatch.setattr(Path, "replace", lambda _, target: order.append(target.name))
    written(tmp_path / "x.wav", noise(), kind())
    assert order[:2] == [8058, "x.wav"]


def test_a_folder_that_was_there_or_is_used_stays(tmp_path):
    (tmp_path / "there").mkdir()
    for folder in ("there", "new"):
        with pytest.raises(ValueError, match="stop"), StemFiles({"v": tmp_path / folder / "v.wav"}, kind()):
            if folder == "new":
                (tmp_path / "new" / "notes.txt").write_text("mine")
            raise ValueError("stop")
    assert files(tmp_path) == ["new", "new/notes.txt", "there"]


def test_an_old_file_survives_a_failure_and_is_replaced_by_success(tmp_path):
    path = tmp_path / "vocals.wav"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="stop"), StemFiles({"vocals": path}, kind()) as stems:
        stems.write({"vocals": noise()})
        raise ValueError("stop")
    assert path.read_bytes() == b"old"
    with StemFiles({"vocals": path}, kind()) as stems:
        stems.write({"vocals": noise()})
    assert soundfile.info(path).frames == 1000


@pytest.mark.parametrize("replaced", [False, True])
def test_a_commit_that_fails_half_way(replaced, tmp_path):
    first, second = tmp_path / "a.wav", tmp_path / "b.wav"
    if replaced:
        first.write_bytes(b"old")
    with (
        pytest.raises(OutputWriteError, match=r"b\.wav: is a directory"),
        StemFiles({"a": first, "b": second}, kind()) as stems,
    ):
        stems.write({"a": noise(), "b": noise()})
        second.mkdir()
    assert files(tmp_path) == (["a.wav", "b.wav"] if replaced else ["b.wav"])


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_the_second_of_two_cannot_be_opened(container, tmp_path):
    (tmp_path / "b").mkdir()
    paths = {"a": tmp_path / "a", "b": tmp_path / "b"}
    with (
        pytest.raises(OutputWriteError, match="b: is a directory; remove it"),
        StemFiles(paths, kind(container=container, subtype="PCM_16")),
    ):
        pytest.fail("the work began")
    assert files(tmp_path) == ["b"]


DYING = """
import os, sys
from pathlib import Path
import numpy as np
from rofo.audio import AudioFormat
from rofo.audio.writer import StemFiles
folder, container = Path(sys.argv[1]), sys.argv[2]
with StemFiles({s: folder / s for s in "ab"}, AudioFormat(44100, 2, 1000, container, "PCM_16")) as stems:
    stems.write({s: np.zeros((2, 500), np.float32) for s in "ab"})
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_parts_of_dead_writers_go_and_those_of_live_ones_stay(container, tmp_path):
    out = tmp_path / "mix"
    command = [sys.executable, "-c", DYING, str(out), container]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert len(files(out)) == 2
        with StemFiles({"c": out / "c"}, kind(0)):
            assert len(files(out)) == 3
        assert len(files(out)) == 3
        process.kill()
        process.wait()
    assert len(files(out)) == 3
    (out / ".rofo-mine.txt").write_text("not ours")
    with StemFiles({"c": out / "c"}, kind(0)):
        assert len(files(out)) == 3
    assert files(out) == [".rofo-mine.txt", "c"]


def test_a_live_writer_between_its_last_sample_and_its_name(tmp_path):
    writer = StemWriter(tmp_path / "a", kind(0))
    writer.finish()
    with StemFiles({"b": tmp_path / "b"}, kind(0)):
        pass
    writer.commit()
    assert files(tmp_path) == ["a", "b"]


def test_two_stems_of_one_name(tmp_path):
    with pytest.raises(UsageError, match="two stems have this name"):
        StemFiles({"a": tmp_path / "x.wav", "b": tmp_path / "x.wav"}, kind())


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cases = {
        tmp_path / "file" / "x.wav": "a file is where a folder should be",
        tmp_path / "file" / "deeper" / "x.wav": "a file is where a folder should be",
        tmp_path / ("x" * 300): "the name is too long",
    }
    for path, words in cases.items():
        with pytest.raises(OutputWriteError, match=words) as caught, StemFiles({"x": path}, kind()):
            pytest.fail("the work began")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(tmp_path))
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk full; free some space"),
        (errno.EDQUOT, "disk quota used up"),
        (errno.EACCES, "no permission to write here"),
        (errno.EROFS, "read-only file system"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errno_in_words(number, words):
    with pytest.raises(OutputWriteError, match=f"^out/x.wav: {words}"), in_words(Path("out/x.wav")):
        raise OSError(number, os.strerror(number))


def test_a_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 12_000_000))
    paths = {stem: tmp_path / "mix" / f"{stem}.wav" for stem in ("vocals", "drums")}
    message = (
        f"{tmp_path}/mix: disk full: needs 84 MB, 12 MB free; free some space or choose another --output"
    )
    with pytest.raises(OutputWriteError) as caught, StemFiles(paths, kind(5_250_000)):
        pytest.fail("the work began")
    assert str(caught.value) == message
    assert files(tmp_path) == []
    with StemFiles(paths, kind(500)) as stems:
        stems.write({"vocals": noise(500), "drums": noise(500)})


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from rofo.audio import AudioFormat
from rofo.errors import OutputWriteError
from rofo.audio.writer import StemFiles
folder, container, subtype, limit = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
x = np.random.default_rng(0).uniform(-1, 1, (2, 44100)).astype(np.float32)
try:
    format = AudioFormat(44100, 2, 44100, container, subtype)
    with StemFiles({s: folder / "mix" / s for s in "ab"}, format) as stems:
        for start in range(0, 44100, 5000):
            stems.write({"a": x[:, start:start + 5000] * 0, "b": x[:, start:start + 5000]})
except OutputWriteError as error:
    print(error)
"""


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16")])
@pytest.mark.parametrize("missing", [1, 100, 5000, 150_000])
def test_no_room_in_the_middle(container, subtype, missing, tmp_path):
    """The system refuses the bytes behind a limit: in the middle, or those written while closing."""
    x = np.random.default_rng(0).uniform(-1, 1, (2, 44100)).astype(np.float32)
    written(tmp_path / "measure", x, kind(44100, 2, container, subtype), cuts=())
    limit = (tmp_path / "measure").stat().st_size - missing
    (tmp_path / "measure").unlink()
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), container, subtype, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(f"{tmp_path}/mix/[ab]: larger than this system lets a file be .*\n", done.stdout)
    assert done.stderr == ""
    assert files(tmp_path) == []


def test_empty_flac_is_what_the_format_asks_for(tmp_path):
    written(tmp_path / "x.flac", np.zeros((1, 0), np.float32), kind(0, 1, "FLAC", "PCM_16"), cuts=())
    data, longer = (tmp_path / "x.flac").read_bytes(), io.BytesIO()
    soundfile.write(longer, np.zeros(10), 44100, format="FLAC", subtype="PCM_16")
    assert len(data) == 42
    assert data[:4] + data[5:8] == longer.getvalue()[:4] + longer.getvalue()[5:8]
    assert data[4] == 0x80  # the last block of metadata
    assert data[18:21] == longer.getvalue()[18:21]  # rate, channels, first bit of the width
