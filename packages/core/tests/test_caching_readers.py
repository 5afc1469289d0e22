"""Reading pictures in threads and in processes. Run as a program, this file reads one (see `main`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tuner.caching.readers import READERS, picture_reader, read_in_processes, read_in_threads
from tuner.data.images import UnreadableImage, load_pixels
from tuner.data.sample import Geometry
from tuner.errors import CacheError

CROPPED = Geometry(resize=(61, 47), crop=(3, 2, 50, 45), downsample=(80, 60))


def write_pictures(folder: Path) -> list[Path]:
    """Pictures of all kinds that decoding treats differently, two of which cannot be read."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 4), dtype=np.uint8)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(folder / "a.jpg", exif=rotated)
    Image.fromarray(pixels).save(folder / "b.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "c.png")
    Image.fromarray(pixels[..., :3]).convert("P").save(folder / "d ü.gif")
    whole = (folder / "b.png").read_bytes()
    (folder / "e.png").write_bytes(whole[: len(whole) // 2])
    return [*sorted(folder.iterdir()), folder / "missing.png"]


def outcome(load, path):
    try:
        return load(path, CROPPED)
    except UnreadableImage as error:
        return error.reason, error.lasting


def test_processes_give_what_threads_give_bit_for_bit(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path)
    with (
        read_in_threads() as here,
        read_in_processes(2) as there,
        ThreadPoolExecutor(4) as pool,
    ):
        expected = [outcome(here, path) for path in paths]
        results = list(pool.map(lambda path: outcome(there, path), paths * 5))
    assert [type(item) for item in expected] == [torch.Tensor] * 4 + [tuple] * 2
    assert expected[5] == ("cannot be opened: No such file or directory", False)
    for result, wanted in zip(results, expected * 5, strict=True):
        if isinstance(wanted, tuple):
            assert result == wanted
        else:
            assert result.dtype is torch.float32
            assert result.shape == (3, 43, 47)
            assert result.is_contiguous()
            assert torch.equal(result, wanted)


def test_bytes_become_pixels_between_minus_one_and_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 51, 255], [102, 204, 127]]], dtype=np.uint8)).save(tmp_path / "a.png")
    pixels = load_pixels(tmp_path / "a.png", Geometry((2, 1), (0, 0, 2, 1)))
    expected = torch.tensor([[[-1.0, -0.2]], [[-0.6, 0.6]], [[1.0, 127 / 127.5 - 1]]])
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-7)


def test_what_decodes_imports_nothing_heavy() -> None:
    code = (
        "import sys, tuner.caching.decoding\n"
        "assert not {'torch', 'diffusers', 'transformers', 'accelerate', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_processes_are_for_many_pictures() -> None:
    before = set(psutil.Process().children())
    with picture_reader(1):
        assert set(psutil.Process().children()) <= before
    with picture_reader(100_000):
        assert len(set(psutil.Process().children()) - before) == (READERS if READERS > 1 else 0)


def test_a_process_that_dies_is_named_with_its_picture(tmp_path: Path) -> None:
    """The picture is a pipe: whoever opens it waits, and is killed then."""
    pipe = tmp_path / "endless.png"
    os.mkfifo(pipe)
    before = set(psutil.Process().children())
    with read_in_processes(1) as load, ThreadPoolExecutor(1) as pool:
        future = pool.submit(load, pipe, CROPPED)
        with pipe.open("wb"):  # opens as soon as the other end is open
            (process,) = set(psutil.Process().children()) - before
            process.kill()
            with pytest.raises(CacheError, match=r"endless\.png: the process .* by signal 9 \(SIGKILL\)\n    -> if"):
                future.result()
    assert set(psutil.Process().children()) <= before


def test_processes_end_with_the_block(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with read_in_processes(2) as load:
        load(write_pictures(tmp_path)[0], CROPPED)
        assert len(set(psutil.Process().children()) - before) == 2
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(
    ("number", "code", "ends"), [(signal.SIGKILL, -signal.SIGKILL, ""), (signal.SIGINT, 130, "stopped\n")]
)
def test_nobody_outlives_a_process_that_is_killed_or_interrupted(
    tmp_path: Path, number: int, code: int, ends: str
) -> None:
    """Everybody who lives holds the pipe of standard error: reading it to its end waits for them."""
    os.mkfifo(tmp_path / "endless.png")
    program = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path / "endless.png")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with (tmp_path / "endless.png").open("wb"):
        os.killpg(program.pid, number)
        program.wait()  # only then does the pipe close: the reader must not see a picture that ends before
    _, errors = program.communicate()
    assert program.returncode == code
    assert errors == ends


def test_a_script_is_not_run_again(tmp_path: Path) -> None:
    """Programs that do all of their work at their top level, as many scripts do, are run once."""
    picture = write_pictures(tmp_path)[0]
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from tuner.caching.readers import read_in_processes\n"
        "from tuner.data.sample import Geometry\n"
        "print('working')\n"
        "with read_in_processes(2) as load:\n"
        f"    print(tuple(load(Path({str(picture)!r}), Geometry((8, 8), (0, 0, 8, 8))).shape))\n"
    )
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the working directory was imported')")
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", str(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines() == ["working", "(3, 8, 8)"]


def main(path: Path) -> int:
    """Read a picture in a process; say so where it is interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts in the background inherits deafness to it
    try:
        with read_in_processes(2) as load:
            load(path, CROPPED)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
