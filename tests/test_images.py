"""One image of every awkward kind: opened rightly, or refused in one line that names it and the fix."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from data import BadSamples, InputError, SkippingDataset, open_image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(mode: str = "RGB") -> Image.Image:
    """Width 8, height 4: the left half red, the right half blue."""
    image = Image.new("RGB", (8, 4), RED)
    image.paste(BLUE, (4, 0, 8, 4))
    return image.convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def refusal(source) -> str:
    with pytest.raises(InputError) as caught:
        open_image(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pixels(image: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def near(pixel: tuple[int, ...], colour: tuple[int, ...], tolerance: int) -> bool:
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP", "JPEG", "JPEG2000"])
def test_every_format_from_path_bytes_and_file(tmp_path, kind):
    path = tmp_path / "image"
    halves().save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with open(path, "rb") as file:
        images = [open_image(path), open_image(str(path)), open_image(path.read_bytes()), open_image(file)]
    for image in images:
        assert (image.mode, image.size) == ("RGB", (8, 4))
        assert near(image.getpixel((0, 0)), RED, 12)
        assert near(image.getpixel((7, 3)), BLUE, 12)


def test_missing_folder_and_strange_paths(tmp_path):
    assert refusal(tmp_path / "gone.png") == f"{tmp_path}/gone.png: there is no such image; check the path"
    assert refusal(tmp_path).startswith(f"{tmp_path}: is a directory; name an image")
    assert "cannot be read" in refusal(str(tmp_path / "nul\0.png"))


def test_not_a_image(tmp_path):
    for name, content in {"text.jpg": b"<html>404</html>", "empty.png": b"", "short.png": b"\x89PNG\r\n"}.items():
        (tmp_path / name).write_bytes(content)
        assert refusal(tmp_path / name).startswith(f"{tmp_path}/{name}: is no image in a known format (JPEG, PNG")
    assert refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").startswith("image in memory: is no image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_truncated(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole", kind)
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    assert refusal(tmp_path / "cut").startswith(f"{tmp_path}/cut: is ")


def test_damage_of_any_kind_is_an_input_error():
    """Random damage to real files: an image or an InputError, nothing else."""
    rng = np.random.default_rng(0)
    sources = []
    for kind, mode in (("PNG", "P"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA")):
        buffer = io.BytesIO()
        halves(mode).save(buffer, kind)
        sources.append(buffer.getvalue())
    opened, refusals = 0, []
    for turn in range(300):
        damaged = bytearray(sources[turn % len(sources)])
        for _ in range(3):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            opened += open_image(bytes(damaged)).mode == "RGB"
        except InputError as error:
            refusals.append(str(error))
    assert opened
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)


def test_cmyk(tmp_path):
    halves("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    image = open_image(tmp_path / "cmyk.jpg")
    assert near(image.getpixel((0, 0)), RED, 8)
    assert near(image.getpixel((7, 3)), BLUE, 8)


def test_palette_and_its_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png")
    assert pixels(open_image(tmp_path / "palette.png")) == [RED, BLUE]
    image.save(tmp_path / "index.png", transparency=1)
    assert pixels(open_image(tmp_path / "index.png")) == [RED, (255, 255, 255)]
    image.save(tmp_path / "alphas.png", transparency=b"\x80\xff")
    assert pixels(open_image(tmp_path / "alphas.png")) == [(255, 127, 127), BLUE]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_lies_over_white(tmp_path, mode):
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((255, 0, 51)):
        image.putpixel((x, 0), (0,) * (len(mode) - 1) + (alpha,))
    image.save(tmp_path / "alpha.png")
    assert [pixel[0] for pixel in pixels(open_image(tmp_path / "alpha.png"))] == [0, 255, 204]


def test_transparent_colour(tmp_path):
    halves().save(tmp_path / "colour.png", transparency=RED)
    image = open_image(tmp_path / "colour.png")
    assert (image.getpixel((0, 0)), image.getpixel((7, 0))) == ((255, 255, 255), BLUE)
    assert image.info == {}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(tmp_path, kind):
    values = np.array([[0, 128, 256, 257, 32768, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep", kind)
    gray = np.asarray(open_image(tmp_path / "deep"))
    assert gray.shape == (1, 7, 3)
    assert gray[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255, 255]
    assert (gray == gray[..., :1]).all()


def test_thirty_two_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.ones((2, 2), np.int32)).save(tmp_path / "int.tif")
    for name in ("float.tif", "int.tif"):
        assert refusal(tmp_path / name).startswith(f"{tmp_path}/{name}: has pixels of 32 bits")


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_bits(tmp_path, mode):
    image = Image.new(mode, (2, 1))
    image.putpixel((1, 0), 255)
    image.save(tmp_path / "gray.png")
    assert pixels(open_image(tmp_path / "gray.png")) == [(0, 0, 0), (255, 255, 255)]


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: to be shown, rotate by 90 degrees clockwise
    halves().save(tmp_path / "turned.png", exif=exif)
    image = open_image(tmp_path / "turned.png")
    assert image.size == (4, 8)
    assert (image.getpixel((0, 0)), image.getpixel((0, 7))) == (RED, BLUE)
    exif[0x0112] = 3
    halves().save(tmp_path / "upside.jpg", exif=exif, quality=95)
    assert near(open_image(tmp_path / "upside.jpg").getpixel((0, 0)), BLUE, 8)


def test_a_block_that_is_no_exif_tells_no_orientation():
    for kind in ("PNG", "WEBP"):
        content = io.BytesIO()
        halves().save(content, kind, exif=b"Exif\0\0nothing")
        assert open_image(content.getvalue()).size == (8, 4)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_long_texts_and_profiles_are_no_damage(tmp_path, place):
    """A workflow of over a MiB, as drawing programs write it, before or behind the pixels."""
    long = zlib.compress(b"\0" * 2**21)
    chunks = {b"iCCP": b"icc\0\0" + long, b"zTXt": b"workflow\0\0" + long}
    chunks |= {b"iTXt": b"prompt\0\1\0\0\0" + long, b"tEXt": b"parameters\0" + b"x" * 2**21}
    content = io.BytesIO()
    turned = Image.Exif()
    turned[0x112] = 6  # a quarter turn
    halves().save(content, "PNG", exif=turned)
    at = 33 if place == "before" else -12  # behind the header, or before the end
    for kind, data in chunks.items():
        chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        path = tmp_path / f"{kind.decode()}.png"
        path.write_bytes(content.getvalue()[:at] + chunk + content.getvalue()[at:])
        image = open_image(path)
        assert (image.size, image.getpixel((0, 0)), image.getpixel((3, 7))) == ((4, 8), RED, BLUE)
        if place == "before":  # what is cut short stays broken
            path.write_bytes(path.read_bytes()[: at + len(chunk) + 60])
            assert "is broken or truncated" in refusal(path)


def test_a_pipe_or_a_device_is_no_image(tmp_path):
    """It is not waited for."""
    os.mkfifo(tmp_path / "pipe.png")
    assert refusal(tmp_path / "pipe.png").startswith(f"{tmp_path}/pipe.png: is a pipe or a device; write what it gives")
    assert refusal("/dev/zero").startswith("/dev/zero: is a pipe or a device")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_large_is_refused_before_decoding(tmp_path):
    (tmp_path / "huge.png").write_bytes(png_header(30_000, 30_000))
    message = refusal(tmp_path / "huge.png")
    assert message.startswith(f"{tmp_path}/huge.png: is too large, 900,000,000 pixels")
    assert "at most 89,478,485 pixels" in message
    assert "10000x9000 = 90,000,000 pixels" in refusal(png_header(10_000, 9_000))
    assert "is broken or truncated" in refusal(png_header(9_000, 9_000))  # within the bound, so it is decoded
    halves().save(tmp_path / "small.png")
    with pytest.raises(InputError, match="8x4 = 32 pixels; scale it down to at most 31 pixels"):
        open_image(tmp_path / "small.png", max_pixels=31)


def test_bad_samples_count_names_once(tmp_path, caplog):
    bad = BadSamples()
    assert (bad.count, bad.report()) == (0, [])
    bad.add("a.jpg", "a.jpg: is broken")
    bad.add("a.jpg", "a.jpg: is broken")
    assert bad.report() == ["1 bad sample was skipped:", "  a.jpg: is broken"]
    assert [record.getMessage() for record in caplog.records] == ["skipped a bad sample: a.jpg: is broken"]
    for number in range(24):
        bad.add(f"{number}.jpg", "gone\nor so")
    assert bad.count == 25
    assert bad.report()[0] == "25 bad samples were skipped:"
    assert bad.report()[2] == "  0.jpg: gone or so"
    assert len(bad.report()) == 22
    assert bad.report()[-1] == "  and 5 more"


def add_some(bad: BadSamples, names: list[str]) -> None:
    for name in names:
        bad.add(name, "is broken")


def test_bad_samples_of_forked_processes():
    bad = BadSamples()
    context = multiprocessing.get_context("fork")
    shares = [[f"{worker}-{number}" for number in range(50)] + ["both"] for worker in range(2)]
    workers = [context.Process(target=add_some, args=(bad, share)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert bad.count == 101
    assert set(bad.samples) == set(shares[0]) | set(shares[1])


def test_bad_samples_of_many_threads_and_copies():
    bad = BadSamples()
    copy = pickle.loads(pickle.dumps(bad))
    shares = [[f"{number % 3}-{worker}" for number in range(60)] for worker in range(4)]
    threads = [threading.Thread(target=add_some, args=(copy, share)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad.count == 12
    path = bad.path
    del copy
    assert path.exists()
    del bad
    assert not path.exists()


def test_bad_samples_kept_in_a_file(tmp_path):
    path = tmp_path / "run" / "bad_samples.jsonl"
    add_some(BadSamples(path), ["a", "b"])
    assert BadSamples(path).count == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be recorded here"):
        BadSamples(tmp_path / "file" / "bad.jsonl")


class Numbers(SkippingDataset):
    """Multiples of three are bad, and are tried once only."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.tried = length, 0

    def __len__(self) -> int:
        return self.length

    def load(self, index: int) -> dict[str, int]:
        self.tried += 1
        if index % 3 == 0 or self.length < 3:
            raise InputError(f"number {index} is bad")
        return {"number": index}

    def name(self, index: int) -> str:
        return f"number {index}"


def test_next_good_sample_takes_the_place():
    numbers = Numbers(7)
    assert [numbers[index]["number"] for index in range(7)] == [1, 1, 2, 4, 4, 5, 1]  # the last goes round the end
    assert numbers[-1]["number"] == 1
    assert numbers.bad.report() == ["3 bad samples were skipped:"] + [f"  number {n} is bad" for n in (0, 3, 6)]
    assert numbers.tried == 3 + 8  # each bad one once, and what was handed out
    with pytest.raises(IndexError):
        numbers[7]
    with pytest.raises(InputError, match="none of the 2 samples is good; the first bad one: number 1 is bad"):
        Numbers(2)[1]
