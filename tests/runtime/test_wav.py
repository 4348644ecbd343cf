"""WAV and AIFF headers: what is read, what is refused, and that no header does harm."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from rofo.audio import AudioReader
from rofo.audio.aiff import parse_aiff
from rofo.audio.wav import is_wav, parse_wav, wav_header
from rofo.errors import AudioReadError, RofoError

PCM_16 = struct.pack("<HHIIHH", 1, 2, 44100, 176400, 4, 16)


def chunk(name, body, size=None):
    size = len(body) if size is None else size
    return name + struct.pack("<I", size & 0xFFFFFFFF) + body + bytes(len(body) % 2)


def riff(*chunks, size=None):
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def parse(data):
    assert is_wav(data[:40])
    return parse_wav(io.BytesIO(data), 0, len(data))


def made_by_libsndfile(container, subtype, frames=1000, endian="FILE"):
    samples = np.random.default_rng(0).uniform(-1, 1, (frames, 2))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 44100, subtype, endian, container)
    return buffer.getvalue(), soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32")[0]


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_samples_equal_those_of_libsndfile(container, subtype, tmp_path):
    data, expected = made_by_libsndfile(container, subtype)
    (tmp_path / "mix.wav").write_bytes(data)
    with AudioReader(tmp_path / "mix.wav") as reader:
        assert (reader.format.container, reader.format.subtype, reader.warnings) == ("WAV", subtype, [])
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks()), axis=1), expected.T)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_big_endian_wav(subtype, tmp_path):
    data, expected = made_by_libsndfile("WAV", subtype, endian="BIG")
    assert data[:4] == b"RIFX"
    (tmp_path / "mix.wav").write_bytes(data)
    with AudioReader(tmp_path / "mix.wav") as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks()), axis=1), expected.T)


@pytest.mark.parametrize("endian", ["FILE", "LITTLE"])
@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_aiff_equals_libsndfile(subtype, endian, tmp_path):
    if endian == "LITTLE" and subtype in ("PCM_S8", "FLOAT", "DOUBLE"):
        endian = "FILE"
    data, expected = made_by_libsndfile("AIFF", subtype, endian=endian)
    (tmp_path / "mix.aif").write_bytes(data)
    with AudioReader(tmp_path / "mix.aif") as reader:
        assert reader.format.subtype == {"PCM_S8": "PCM_16"}.get(subtype, subtype)
        assert (reader.format.container, reader.format.sample_rate) == ("WAV", 44100)
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks()), axis=1), expected.T)


def test_aiff_cut_short_is_noticed():
    data, _ = made_by_libsndfile("AIFF", "PCM_16")
    layout = parse_aiff(io.BytesIO(data), 0, len(data) - 2000)
    assert (layout.frames, layout.shortage) == (500, "file is cut short: 2,000 of 4,000 bytes of audio")


@pytest.mark.parametrize("channels", [0, 300])
def test_aiff_with_absurd_channels(channels):
    data = bytearray(made_by_libsndfile("AIFF", "PCM_16")[0])
    at = data.index(b"COMM") + 8
    data[at : at + 2] = channels.to_bytes(2, "big")
    with pytest.raises(AudioReadError, match=f"{channels} channels"):
        parse_aiff(io.BytesIO(data), 0, len(data))


def test_aiff_ima4_is_refused_before_libsndfile_sees_it():
    comm = struct.pack(">HIH", 2, 100, 16) + b"\x40\x0e\xac\x44" + bytes(6) + b"ima4\x00\x00"
    body = b"AIFC" + b"COMM" + struct.pack(">I", len(comm)) + comm + b"SSND" + struct.pack(">I", 8) + bytes(8)
    data = b"FORM" + struct.pack(">I", len(body)) + body
    with pytest.raises(AudioReadError, match="'ima4', not plain samples"):
        parse_aiff(io.BytesIO(data), 0, len(data))


@pytest.mark.parametrize(
    ("tag", "name"), [(2, "MS ADPCM"), (0x11, "IMA ADPCM"), (0x55, "MP3"), (0x1234, "0x1234")]
)
def test_compressed_wav_is_refused_by_name(tag, name):
    fmt = struct.pack("<HHIIHH", tag, 2, 44100, 44100, 1024, 4)
    with pytest.raises(AudioReadError, match=f"{name}.*ffmpeg"):
        parse(riff(chunk(b"fmt ", fmt), chunk(b"data", bytes(1024))))


@pytest.mark.parametrize(
    ("tag", "tail"), [(1, bytes(14)), (0x11, bytes.fromhex("000000001000800000aa00389b71"))]
)
def test_extensible_hides_no_other_encoding(tag, tail):
    fmt = struct.pack("<HHIIHHHHIH", 0xFFFE, 2, 44100, 44100, 4, 16, 22, 16, 3, tag) + tail
    with pytest.raises(AudioReadError, match="not plain samples"):
        parse(riff(chunk(b"fmt ", fmt), chunk(b"data", bytes(400))))


@pytest.mark.parametrize(
    "fmt",
    [
        struct.pack("<HHIIHH", 1, 0, 44100, 0, 0, 16),  # no channels
        struct.pack("<HHIIHH", 1, 300, 44100, 0, 600, 16),  # absurdly many
        struct.pack("<HHIIHH", 1, 2, 44100, 176400, 0, 16),  # no block size
        struct.pack("<HHIIHH", 1, 2, 44100, 176400, 8, 16),  # contradicts itself
        struct.pack("<HHIIHH", 3, 2, 44100, 176400, 4, 16),  # half floats
        PCM_16[:12],
    ],
)
def test_impossible_formats_are_refused(fmt):
    with pytest.raises(AudioReadError, match="header is damaged"):
        parse(riff(chunk(b"fmt ", fmt), chunk(b"data", bytes(400))))


def test_odd_chunks_before_and_after_the_samples():
    around = chunk(b"LIST", b"odd"), chunk(b"JUNK", b"")
    layout = parse(riff(*around, chunk(b"fmt ", PCM_16), *around, chunk(b"data", bytes(400)), *around))
    assert (layout.frames, layout.shortage, layout.note) == (100, None, None)


@pytest.mark.parametrize("parts", [[chunk(b"data", bytes(4))], [chunk(b"fmt ", PCM_16)], []])
def test_missing_chunks(parts):
    with pytest.raises(AudioReadError, match="header is damaged or cut short"):
        parse(riff(*parts))


def test_a_file_of_endless_tiny_chunks_is_given_up():
    with pytest.raises(AudioReadError, match="more than 1000 chunks"):
        parse(riff(*[chunk(b"JUNK", b"")] * 5000, chunk(b"fmt ", PCM_16), chunk(b"data", bytes(4))))


@pytest.mark.parametrize(
    "size", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFEFFC, 0x7FFFFFFF, 0x80000000]
)
def test_placeholder_sizes_mean_to_the_end(size):
    layout = parse(riff(chunk(b"fmt ", PCM_16), chunk(b"data", bytes(402), size), size=0xFFFFFFFF))
    assert (layout.frames, layout.shortage) == (100, None)
    assert layout.note is not None
    assert "100 samples" in layout.note


def test_zero_size_of_a_writer_that_died():
    layout = parse(riff(chunk(b"fmt ", PCM_16), chunk(b"data", bytes(400), 0), size=36))
    assert layout.frames == 100
    assert layout.note is not None


def test_zero_size_that_is_meant():
    layout = parse(riff(chunk(b"fmt ", PCM_16), chunk(b"data", b""), chunk(b"LIST", bytes(400))))
    assert (layout.frames, layout.note) == (0, None)


def test_large_size_that_is_no_placeholder_is_a_cut_file():
    layout = parse(riff(chunk(b"fmt ", PCM_16), chunk(b"data", bytes(400), 3_000_000_000)))
    assert layout.frames == 100
    assert layout.shortage == "file is cut short: 400 of 3,000,000,000 bytes of audio"


def test_a_cut_within_one_sample_of_all_channels():
    assert parse(riff(chunk(b"fmt ", PCM_16), chunk(b"data", bytes(398), 400))).frames == 99


def test_rf64_takes_its_size_from_ds64():
    data = wav_header(44100, 2, 1 << 31, "PCM_16")
    layout = parse(data + bytes(400))
    assert layout.frames == 100
    assert layout.shortage == f"file is cut short: 400 of {1 << 33:,} bytes of audio"


def wave64(*parts):
    """Chunks of Wave64; a part is (name, body, size or None for the true one)."""
    tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    data = bytes.fromhex("726966662e91cf11a5d628db04c10000") + bytes(8) + b"wave" + tail
    for name, body, size in parts:
        data += name + tail + struct.pack("<Q", 24 + len(body) if size is None else size) + body
        data += bytes(-len(data) % 8)
    return data


def test_wave64_of_unknown_length():
    layout = parse(wave64((b"fmt ", PCM_16, None), (b"data", bytes(400), 2**64 - 1)))
    assert (layout.frames, layout.shortage) == (100, None)
    assert layout.note is not None


def test_wave64_chunk_that_leads_beyond_every_file():
    with pytest.raises(AudioReadError, match="header is damaged or cut short"):
        parse(wave64((b"fmt ", PCM_16, None), (b"JUNK", bytes(8), 2**64 - 8), (b"data", bytes(400), None)))


def test_wave64_chunk_that_leads_backwards():
    with pytest.raises(AudioReadError, match="a chunk smaller than its own header"):
        parse(wave64((b"fmt ", PCM_16, 0), (b"data", bytes(400), None)))


def test_overflowed_sizes_of_more_than_4_gib(tmp_path):
    """A sparse file: 2^32 + 400 bytes of samples whose header can only say 400."""
    data = riff(chunk(b"fmt ", PCM_16), chunk(b"data", bytes(400)))
    with (tmp_path / "long.wav").open("wb+") as file:
        file.write(data)
        file.truncate(len(data) + 2**32)
        assert parse_wav(file, 0, len(data) + 2**32).frames == (2**32 + 400) // 4


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("frames", [0, 1, 999])
def test_written_headers_are_read_by_libsndfile(subtype, frames):
    width = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}[subtype]
    size = frames * width
    data = wav_header(22050, 1, frames, subtype) + bytes(size + size % 2)
    info = soundfile.info(io.BytesIO(data))
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (22050, 1, frames, subtype)
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8


def test_headers_become_rf64_exactly_where_32_bits_end():
    largest = (2**32 - 1 - 36) // 4
    assert wav_header(44100, 2, largest, "PCM_16")[:4] == b"RIFF"
    assert wav_header(44100, 2, largest + 1, "PCM_16")[:4] == b"RF64"


def test_rf64_headers_are_read_by_libsndfile(tmp_path):
    frames = 2**30 + 5
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(wav_header(44100, 2, frames, "PCM_16"))
        file.truncate(file.tell() + frames * 4)  # sparse
    info = soundfile.info(tmp_path / "long.wav")
    assert (info.format, info.frames) == ("RF64", frames)


NUMBERS = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 3, 4, 16, 400, 2**31, 2**32 - 1]))
FORMATS = st.one_of(
    st.sampled_from([PCM_16, struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)]),
    st.builds(
        lambda *v: struct.pack("<HHIIHH", *v),
        st.sampled_from([1, 3, 0x11, 0xFFFE]),
        st.integers(0, 5),
        st.sampled_from([0, 1, 8000, 44100, 2**32 - 1]),
        st.just(0),
        st.integers(0, 40),
        st.sampled_from([0, 8, 16, 24, 32, 64, 65535]),
    ),
    st.binary(max_size=45),
)
CHUNKS = st.one_of(
    st.builds(lambda body: chunk(b"fmt ", body), FORMATS),
    st.builds(lambda body: chunk(b"data", body), st.binary(max_size=300)),
    st.builds(lambda body, size: chunk(b"data", body, size), st.binary(max_size=300), NUMBERS),
    st.builds(
        chunk,
        st.binary(min_size=4, max_size=4),
        st.binary(max_size=40),
        NUMBERS,
    ),
    st.builds(
        lambda riff_size, size: chunk(b"ds64", struct.pack("<QQQI", riff_size, size, 0, 0)), NUMBERS, NUMBERS
    ),
)
MAGICS = st.sampled_from([b"RIFF", b"RIFF", b"RF64", b"BW64", b"RIFX"])
LAYOUTS = st.builds(
    lambda magic, size, parts: magic + struct.pack("<I", size) + b"WAVE" + b"".join(parts),
    MAGICS,
    NUMBERS,
    st.lists(CHUNKS, max_size=6).flatmap(
        lambda parts: st.sampled_from([parts, [chunk(b"fmt ", PCM_16), *parts]])
    ),
)
SEEDS = st.sampled_from(
    [
        made_by_libsndfile(*kind, frames=60)[0]
        for kind in (
            ("WAV", "PCM_16"),
            ("WAVEX", "PCM_24"),
            ("RF64", "FLOAT"),
            ("W64", "DOUBLE"),
            ("AIFF", "PCM_16"),
            ("AIFF", "FLOAT"),
        )
    ]
)


@st.composite
def mutated(draw):
    data = bytearray(draw(SEEDS))
    for _ in range(draw(st.integers(1, 6))):
        data[draw(st.integers(12, min(len(data), 140) - 1))] = draw(
            st.sampled_from([0, 1, 127, 128, 255, 17])
        )
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One file for all examples, on a system without ffmpeg."""
    folder = tmp_path_factory.mktemp("riff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder))
        yield folder / "mix.wav"


@settings(max_examples=400, deadline=None)
@given(data=st.one_of(LAYOUTS, mutated()), allow=st.booleans(), sanitize=st.booleans())
def test_any_header_gives_an_error_or_finite_audio_as_long_as_it_says(scratch, data, allow, sanitize):
    scratch.write_bytes(data)
    try:
        with AudioReader(scratch, allow_truncated=allow, sanitize=sanitize) as reader:
            blocks = list(reader.blocks())
    except RofoError as error:
        assert "\n" not in str(error)
        return
    assert sum(block.shape[1] for block in blocks) == reader.format.frames
    assert all(block.dtype == np.float32 and np.isfinite(block).all() for block in blocks)
    assert all(block.shape[0] == reader.format.channels for block in blocks)
