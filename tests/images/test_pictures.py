"""Image files as strangers may have made them."""

import io
import os
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features

from supernetnas.images import pictures
from supernetnas.images.image_files import image_paths
from supernetnas.images.pictures import IMAGE_EXTENSIONS, open_picture, shown_size, upright
from supernetnas.images.reading import as_image_set

HIGH = np.zeros((40, 20, 3), np.uint8)  # white above black
HIGH[:20] = 255

OPTIONAL = {".avif": "avif", ".j2k": "jpg_2000", ".jp2": "jpg_2000", ".jpx": "jpg_2000"}


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def assert_turned(image):
    """An image of `HIGH` with orientation 6: shown turned clockwise, white to the right."""
    images = as_image_set([image])
    assert images.typical_size == (20, 40)
    left, right = images.tensor(2, 2)[0, 0, 0].tolist()
    assert left < 60 and right > 195


class TestOrientation:
    @pytest.mark.parametrize("value", range(10))  # 0 and 9 mean nothing
    @pytest.mark.parametrize("suffix", [".avif", ".jpg", ".png", ".tif", ".webp"])
    def test_the_header_says_what_the_decoder_gives(self, tmp_path, suffix, value):
        if not features.check(OPTIONAL.get(suffix, "zlib")):
            pytest.skip(f"this Pillow does not write {suffix}")
        path = tmp_path / f"turned{suffix}"
        Image.fromarray(HIGH).save(path, exif=orientation(value))
        with open_picture(str(path)) as image:
            height, width = shown_size(image)
            shown = upright(image)
        assert shown.size == (width, height) == ((40, 20) if value in (5, 6, 7, 8) else (20, 40))
        with Image.open(path) as image:
            expected = ImageOps.exif_transpose(image).convert("RGB")
        assert np.array_equal(shown.convert("RGB"), expected)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
    def test_damaged_metadata_leave_it_as_it_is(self, tmp_path, suffix):
        path = tmp_path / f"damaged{suffix}"
        Image.fromarray(HIGH).save(path, exif=b"Exif\0\0no TIFF at all")
        images = as_image_set([str(path)])
        images.check()
        assert images.typical_size == HIGH.shape[:2]
        assert images.tensor(4, 4).shape == (1, 3, 4, 4)

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
    def test_images_are_shown_upright(self, tmp_path, suffix):
        path = tmp_path / f"turned{suffix}"
        Image.fromarray(HIGH).save(path, exif=orientation(6))
        assert_turned(str(path))
        assert_turned(path.read_bytes())

    @pytest.mark.parametrize("decoded", [False, True])
    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
    def test_pil_images_before_and_after_they_are_decoded(self, tmp_path, suffix, decoded):
        path = tmp_path / f"turned{suffix}"
        Image.fromarray(HIGH).save(path, exif=orientation(6))
        with Image.open(path) as image:
            if decoded:
                image.load()
            assert_turned(image)
            assert_turned(image)

    @pytest.mark.parametrize("kind", ["eXIf", "XMP", "raw profile"])
    def test_png_metadata_behind_the_pixels(self, tmp_path, kind):
        plain, exif = io.BytesIO(), orientation(6).tobytes()
        Image.fromarray(HIGH).save(plain, "PNG")
        if kind == "eXIf":
            late = chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
        elif kind == "XMP":
            text = b'<rdf:Description tiff:Orientation="6"/>'
            late = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text)
        else:
            text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
            late = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
        end = chunk(b"IEND", b"")
        content = plain.getvalue()
        assert content.endswith(end)
        path = tmp_path / "late.png"
        path.write_bytes(content.removesuffix(end) + chunk(b"tEXt", b"Author\0me") + late + end)
        assert_turned(str(path))
        assert_turned(path.read_bytes())
        with Image.open(path) as image:
            assert_turned(image)

    def test_headers_do_not_decode(self, tmp_path, monkeypatch):
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", "me", zip=True)
        Image.fromarray(HIGH).save(tmp_path / "plain.png", pnginfo=text)
        content = (tmp_path / "plain.png").read_bytes()
        end = chunk(b"IEND", b"")
        late = content.removesuffix(end) + chunk(b"tEXt", b"date:create\0now") + end
        (tmp_path / "late.png").write_bytes(late)
        Image.fromarray(HIGH).save(tmp_path / "turned.png", exif=orientation(6))

        def refuse(self):
            raise AssertionError("decoded")

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", refuse)
        paths = [str(tmp_path / f"{name}.png") for name in ("plain", "late", "turned")]
        assert as_image_set(paths).typical_size == (40, 20)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class TestFormats:
    @pytest.mark.parametrize("suffix", IMAGE_EXTENSIONS)
    def test_every_extension_is_read(self, tmp_path, suffix):
        if not features.check(OPTIONAL.get(suffix, "zlib")):
            pytest.skip(f"this Pillow does not write {suffix}")
        path = tmp_path / f"image{suffix.upper()}"
        Image.fromarray(HIGH).convert("1" if suffix == ".pbm" else "RGB").save(path)
        assert image_paths(tmp_path) == [str(path)]
        column = as_image_set([path]).tensor(8, 2, channels=1)[0, 0, :, 0].tolist()
        assert min(column[:2]) > 235 and max(column[-2:]) < 20

    def test_the_content_decides_and_not_the_name(self, tmp_path):
        path = tmp_path / "image.jpg"
        Image.fromarray(HIGH).save(path, "PNG")
        assert as_image_set([path]).tensor(4, 4).shape == (1, 3, 4, 4)

    def test_photographs_of_several_frames(self, tmp_path):
        path = tmp_path / "phone.jpg"
        image = Image.fromarray(HIGH)
        image.save(path, "MPO", save_all=True, append_images=[image])
        with open_picture(str(path)) as opened:
            assert opened.format == "MPO"
        assert as_image_set([path]).tensor(4, 4).shape == (1, 3, 4, 4)

    @pytest.mark.parametrize("name", ["image.jpg", "image.eps"])
    def test_ghostscript_is_not_started(self, tmp_path, monkeypatch, name):
        started = []
        monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: started.append(a))
        path = tmp_path / name
        Image.fromarray(HIGH).save(path, "EPS")
        for X in ([path], [path.read_bytes()]):
            message = r"1 of 1 images cannot be read.* not an image of the formats that are read"
            with pytest.raises(OSError, match=message + r" \(AVIF|\(BMP"):
                as_image_set(X).tensor(4, 4)
        assert not started

    @pytest.mark.parametrize("kind", ["ICO", "PCX", "PDF", "SGI", "TGA"])
    def test_other_formats_are_not_tried(self, tmp_path, kind):
        path = tmp_path / "image.png"
        Image.fromarray(HIGH).save(path, kind)
        with pytest.raises(OSError, match="not an image of the formats"):
            open_picture(str(path))

    def test_a_part_that_pillow_lacks_is_named(self, tmp_path, monkeypatch):
        path = tmp_path / "image.avif"
        path.write_bytes(b"\0\0\0 ftypavif\0\0\0\0")
        monkeypatch.setattr(pictures.features, "check", lambda part: part != "avif")
        pictures._readable.cache_clear()
        try:
            assert "AVIF" not in pictures._readable()
            assert "WEBP" in pictures._readable()
            with pytest.raises(OSError, match="the installed Pillow does not read AVIF"):
                open_picture(str(path))
        finally:
            pictures._readable.cache_clear()


class TestWhatIsNoRegularFile:
    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        Image.fromarray(HIGH).save(tmp_path / "image.jpg")
        failures = []

        def read():
            for use in (lambda images: images.check(), lambda images: images.tensor(4, 4, 3)):
                try:
                    use(as_image_set(image_paths(tmp_path)))
                except OSError as error:
                    failures.append(str(error))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(60)
        assert len(failures) == 2
        for failure in failures:
            assert "1 of 2 images cannot be read. The first is X[1] = " in failure
            assert "pipe.jpg" in failure and "not a regular file" in failure

    def test_folders_and_devices(self, tmp_path):
        for path in (str(tmp_path), os.devnull):
            with pytest.raises(OSError, match="not a regular file"):
                open_picture(path)

    def test_links_to_files_are_followed(self, tmp_path):
        Image.fromarray(HIGH).save(tmp_path / "image.png")
        (tmp_path / "link.png").symlink_to(tmp_path / "image.png")
        with open_picture(str(tmp_path / "link.png")) as image:
            assert image.size == (20, 40)


class TestSize:
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("limit", [700, 300])  # Pillow itself refuses at twice its limit
    def test_large_images_are_refused_before_they_are_decoded(self, tmp_path, monkeypatch, limit):
        path = tmp_path / "large.png"
        Image.fromarray(HIGH).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
        for X in ([path], [path.read_bytes()]):
            with pytest.raises(OSError, match=r"800 pixels.*raise PIL.Image.MAX_IMAGE_PIXELS"):
                as_image_set(X).check()

    @pytest.mark.parametrize("limit", [800, None])
    def test_the_limit_is_pillows(self, tmp_path, monkeypatch, limit):
        path = tmp_path / "large.png"
        Image.fromarray(HIGH).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert as_image_set([path]).tensor(4, 4).shape == (1, 3, 4, 4)

    @pytest.mark.parametrize("pixels, most", [(799, 1), (800, 2)])
    def test_images_that_take_much_memory_are_decoded_one_at_a_time(
        self, tmp_path, monkeypatch, pixels, most
    ):
        paths = [tmp_path / f"{position}.png" for position in range(4)]
        for path in paths:
            Image.fromarray(HIGH).save(path)
        decoding, seen, both = [], [], threading.Barrier(2)

        def decode(image, height, width, channels, values, resize):
            decoding.append(None)
            if most > 1:
                both.wait(60)
            else:
                time.sleep(0.02)  # in which another thread would come
            seen.append(len(decoding))
            if most > 1:
                both.wait(60)
            decoding.pop()
            return np.zeros((height, width, channels), np.uint8)

        monkeypatch.setattr("supernetnas.images.picture_sets._decode", decode)
        monkeypatch.setattr("supernetnas.images.picture_sets._LARGE_PIXELS", pixels)
        monkeypatch.setattr("torch.get_num_threads", lambda: 2)
        as_image_set(paths).tensor(4, 4, channels=3)
        assert max(seen) == most

    def test_reading_warns_of_nothing(self, tmp_path):
        path = tmp_path / "image.png"
        Image.fromarray(HIGH).save(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            as_image_set([path]).tensor(4, 4)
