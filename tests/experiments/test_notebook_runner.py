import io

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.experiments import notebooks
from r2genkit.experiments.notebooks import (
    accepted_parameters,
    execute,
    execute_all,
    fewer_colours,
    find_notebooks,
    save_in_place,
    scrub,
)


def write(path, *sources, parameters='word = "a"  # a word'):
    cells = [new_markdown_cell("# A?"), new_code_cell(parameters)]
    cells[1].metadata["tags"] = ["parameters"]
    cells += [new_code_cell(source) for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def printed(path):
    notebook = nbformat.read(path, as_version=4)
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


def test_parameters_are_injected_and_the_source_stays_untouched(tmp_path):
    source = write(tmp_path / "00_a.ipynb", "print(word * 2)")
    before = source.read_bytes()
    assert accepted_parameters(source) == {"word"}
    execution = execute(source, tmp_path / "out/00_a.ipynb", {"word": "b"})
    assert execution.error == "" and printed(execution.output) == "bb\n"
    assert source.read_bytes() == before


def test_unknown_parameters_are_fatal(tmp_path):
    source = write(tmp_path / "00_a.ipynb", "print(word)")
    with pytest.raises(KitError, match=r"00_a\.ipynb has no parameter wrod"):
        execute(source, tmp_path / "out.ipynb", {"wrod": "b"})
    with pytest.raises(KitError, match="profile"):
        execute_all([source], {"word": "a", "profile": "lab"}, profile="smoke")


def test_a_failing_cell_is_reported_and_never_written_back(tmp_path, monkeypatch):
    monkeypatch.setenv("R2GENKIT_RUNS", str(tmp_path / "runs"))
    bad = write(tmp_path / "00_bad.ipynb", "raise ValueError(word)")
    good = write(tmp_path / "01_good.ipynb", "print(word)")
    before = bad.read_bytes()
    done = execute_all([bad, good], {"word": "x"}, profile="smoke", jobs=2, in_place=True)
    assert [bool(execution.error) for execution in done] == [True, False]
    assert "ValueError: x" in done[0].error
    assert bad.read_bytes() == before
    assert printed(good) == "x\n"


def test_the_results_notebook_runs_after_all_others(tmp_path, monkeypatch):
    monkeypatch.setenv("R2GENKIT_RUNS", str(tmp_path / "runs"))
    flag = tmp_path / "flag"
    last = write(tmp_path / "14_last.ipynb", f"assert open({str(flag)!r}).read() == word")
    first = write(
        tmp_path / "03_first.ipynb",
        f"import time; time.sleep(1); open({str(flag)!r}, 'w').write(word)",
    )
    done = execute_all([last, first], {"word": "w"}, profile="smoke", jobs=2)
    assert [execution.error for execution in done] == ["", ""]


def test_scrub_keeps_content_only(monkeypatch, tmp_path):
    monkeypatch.setattr(notebooks, "project_root", lambda: tmp_path)
    injected = new_code_cell("word = 1")
    injected.metadata["tags"] = ["injected-parameters"]
    view = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "Widget()"}
    cell = new_code_cell(
        "show()",
        execution_count=9,
        outputs=[
            new_output("stream", name="stderr", text="5%|#   "),
            new_output("stream", name="stdout", text=f"saved {tmp_path}/figures/a.png"),
            new_output("display_data", data=view),
            new_output("execute_result", data={"text/plain": "1"}, execution_count=9),
        ],
        metadata={"papermill": {"duration": 3}, "tags": ["keep"]},
    )
    words = new_markdown_cell("words", metadata={"papermill": {"duration": 1}})
    notebook = new_notebook(
        cells=[injected, cell, words], metadata={"widgets": {}, "papermill": {}}
    )
    scrubbed = scrub(notebook)
    assert "widgets" not in scrubbed.metadata and "papermill" not in scrubbed.metadata
    only, text = scrubbed.cells
    assert text.metadata == {}
    assert only.execution_count == 1 and only.metadata == {"tags": ["keep"]}
    stream, result = only.outputs
    assert stream.text == "saved ./figures/a.png" and result.execution_count == 1


def test_in_place_is_valid_and_leaves_no_temporary(tmp_path):
    source = write(tmp_path / "00_a.ipynb", "print(word)")
    save_in_place(execute(source, tmp_path / "out.ipynb", {"word": "z"}))
    notebook = nbformat.read(source, as_version=4)
    nbformat.validate(notebook)
    assert printed(source) == "z\n" and not list(tmp_path.glob("*.tmp"))
    assert notebook.cells[1].source == 'word = "a"  # a word'  # defaults, not the injected value


def test_numbers_select_notebooks():
    numbers = [path.name[:2] for path in find_notebooks()]
    assert numbers == sorted(numbers)
    assert [path.name[:2] for path in find_notebooks(["3"])] == ["03"]
    with pytest.raises(KitError, match="no notebook numbered 98"):
        find_notebooks(["98"])


def test_images_of_notebooks_keep_their_colours_in_less_room():
    """A grey film with a warm spot and thin lines, as a figure has them."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:400, :400] / 400
    film = 255 * (0.2 + 0.6 * rows) + rng.normal(0, 12, rows.shape)
    heat = np.exp(-((rows - 0.3) ** 2 + (columns - 0.7) ** 2) / 0.005)[..., None]
    pixels = film[..., None] * (1 - heat) + heat * np.array([253.0, 231.0, 37.0])
    pixels[200:202] = (23, 214, 211)
    pixels = pixels.clip(0, 255).astype(np.uint8)

    def png(array):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, format="PNG")
        return buffer.getvalue()

    image = png(pixels)
    small = fewer_colours(image)
    assert len(small) < len(image) / 2
    seen = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    off = np.abs(seen - pixels).max(-1)
    assert off.mean() < 4 and off.max() < 40
    assert off[120, 280] < 20 and off[200].max() < 8  # the peak of the heat, the line
    assert fewer_colours(small) == small
    assert fewer_colours(png(pixels[:40, :40])) == png(pixels[:40, :40])  # not worth while
    clear = np.dstack([pixels, np.full((400, 400), 200, np.uint8)])
    assert fewer_colours(png(clear)) == png(clear)
