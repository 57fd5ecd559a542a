"""The page of people beside models in a real browser, on a phone and on a desk.

Needs Chromium and its driver from the system's packages and selenium from the extra `dev`; skips where they are not.
"""

from pathlib import Path

import pytest
from chromium import requested
from conftest import run_here
from made_up_crowds import crowd_of, make_crowd, model_of, write_people, write_scored_run

HOSTILE = "<img src=http:x onerror=alert(1)>"
FOLDER = "<b onclick=alert(2)>"
FIGURES = ("accuracy", "d_prime", "criterion", "zroc_slope", "rates", "retention", "clip_kinds", "order")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison in which all names are hostile or long."""
    folder = tmp_path_factory.mktemp("compared")
    crowd, is_old, item = make_crowd(0.5)
    write_people(folder / "people", crowd_of(crowd.answer, crowd.is_old, crowd.episode, (3,), HOSTILE))
    same_name = crowd_of(crowd.answer, crowd.is_old, crowd.episode, (), HOSTILE, None)  # told by its folder's name
    write_people(folder / FOLDER, same_name)
    for seed in (0, 1, 2):
        answer = model_of(item, is_old, 0.5, 1 + seed)
        write_scored_run(folder / f"seed{seed}", answer, is_old, seed, name=f"transformer-seed{seed}")
    long_name = "a_model_with_a_name_that_takes_more_than_one_line_on_a_phone=1.0e-3"
    write_scored_run(folder / "long", model_of(item, is_old, 0.0), is_old, name=long_name, model="mlstm")
    names = ("people", FOLDER, "seed0", "seed1", "seed2", "long")
    result = run_here("recognition.participants", "compare", *names, "--output", "out", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder / "out/compare.html"


def test_the_page_has_no_error_and_loads_nothing(opened):
    assert opened.get_log("browser") == []
    asked = requested(opened)
    assert [url for url in asked if not url.startswith("data:")] == [opened.current_url]


def test_hostile_names_stay_text(opened):
    found = opened.execute_script("return [document.scripts.length, document.images.length, document.body.innerText]")
    assert found[:2] == [0, 0]
    assert HOSTILE in found[2]
    assert FOLDER in found[2]
    assert opened.execute_script("return document.querySelectorAll('b').length") == 0


def test_all_panels_are_drawn_and_none_is_wider_than_the_screen(opened):
    assert opened.execute_script("return [...document.querySelectorAll('figure')].map(f => f.id)") == [
        f"figure-{name}" for name in FIGURES
    ]
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    sizes = opened.execute_script("""
        return [...document.querySelectorAll("figure svg")].map(svg => {
          const box = svg.getBoundingClientRect();
          const words = [...svg.querySelectorAll("g[id*=text_]")].map(g => g.getBoundingClientRect());
          return [box.width, box.height, svg.querySelectorAll("path, use").length,
                  words.every(w => w.left >= box.left - 1 && w.right <= box.right + 1)];
        })""")
    for width, height, marks, words_inside in sizes:
        assert width > 300
        assert height > 150
        assert marks > 20
        assert words_inside
