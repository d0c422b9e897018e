"""Scores and what they are worth: saturated samples, few images, a judge of what it does not know; the table.

In the table a small distance alone is not enough for bold.
"""

import contextlib
import itertools
import json
import pathlib
import warnings

import numpy as np
import pytest
import torch
from helpers import refuses
from PIL import Image

from dgtoy import metrics
from dgtoy.course.worlds import glyphs
from dgtoy.pipeline import evaluate, table
from dgtoy.pipeline.extractors import extractor
from dgtoy.pipeline.image_sets import read_images
from dgtoy.pipeline.manifest import write_json
from dgtoy.pipeline.pictures import centre_crop, to_uint8
from dgtoy.pipeline.sample import image_path
from dgtoy.pipeline.sheet import write_png

few = pytest.mark.filterwarnings("ignore:.*too few", "ignore:.*say little", "ignore:.*are saturated")
same = pytest.mark.filterwarnings("ignore:.*the same pictures")


def saved(path, images):
    """Images (n, H, W, 3) as an .npz for `evaluate`."""
    with open(path, "wb") as file:
        np.savez(file, images)
    return path


def smooth(n, seed, low=20, high=236):
    """Random pictures between two values, blocks of 8 pixels."""
    blocks = np.random.default_rng(seed).integers(low, high, (n, 4, 4, 3), dtype=np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


def true_glyphs(n, seed):
    x = glyphs.target().sample(n, generator=torch.Generator().manual_seed(seed))[0]
    return to_uint8(x).permute(0, 2, 3, 1).numpy()


def said(samples, reference):
    """What `evaluate` warns of, by the judge of glyphs, and its result."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = evaluate.evaluate(samples, reference, extractor("glyphs"), "glyphs")
    return [str(w.message) for w in caught], result


# scores


@pytest.fixture
def pictures(tmp_path):
    """Twelve real and twelve fake ones, of random colours."""
    noise = np.random.default_rng(1)
    for i, name in itertools.product(range(12), ("real", "fake")):
        write_png(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8), tmp_path / name / f"{i:02d}.png")
    return tmp_path


@few
@same
def test_scores_are_the_metrics_of_the_features(pictures):
    net = extractor("glyphs")
    fake, real = (evaluate.features(net, read_images(pictures / name))[0] for name in ("fake", "real"))
    scores = evaluate.evaluate(pictures / "fake", pictures / "real", net, "glyphs", batch=5)["scores"]
    assert scores["frechet"] == pytest.approx(metrics.frechet_distance(fake, real).item(), rel=1e-3)
    assert scores["coverage"] == pytest.approx(metrics.prdc(real, fake)["coverage"])
    itself = evaluate.evaluate(pictures / "real", pictures / "real", net, "glyphs")["scores"]
    assert abs(itself["frechet"]) < 1e-3 and itself["precision"] == itself["recall"] == 1
    some = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:8]
    scores = evaluate.evaluate(pictures / "fake", pictures / "real", net, "glyphs", n=8)["scores"]
    assert scores["frechet"] == pytest.approx(metrics.frechet_distance(fake[:8], real).item(), rel=1e-3)
    assert scores["density"] == pytest.approx(metrics.prdc(real[some], fake[:8])["density"], abs=1e-6)


@few
def test_a_folder_and_its_npz_score_alike(pictures, tmp_path):
    npz = saved(tmp_path / "fake.npz", np.stack(list(read_images(pictures / "fake"))))
    one, other = (said(source, pictures / "real")[1] for source in (pictures / "fake", npz))
    assert one == other and one["manifest"]["samples"] == 12


def test_reference_images_are_cut_as_training_images_are(pictures, tmp_path):
    noise = np.random.default_rng(4)
    for i in range(12):
        image = Image.fromarray(noise.integers(0, 256, (70 + i, 90, 3), dtype=np.uint8))
        write_png(image, tmp_path / "large" / f"{i:02d}.png")
        write_png(centre_crop(image, 32).permute(1, 2, 0).numpy(), tmp_path / "cut" / f"{i:02d}.png")
    one, other = (said(pictures / "fake", tmp_path / name)[1] for name in ("large", "cut"))
    assert one == other and one["manifest"]["crop"] == "32 pixels, centre"


@few
@same
def test_what_cannot_be_compared_is_refused(pictures):
    def score(name, reference="real", **options):
        net = extractor(name)
        return evaluate.evaluate(pictures / "fake", pictures / reference, net, name, **options)

    for other, what in (
        (score("patches"), "features is glyphs in one and patches in another"),
        (score("glyphs", n=10), "samples is 12 in one and 10 in another"),
        (score("glyphs", "fake"), "reference is"),
    ):
        with refuses(what):
            evaluate.comparable(score("glyphs"), other)


def test_pictures_that_are_missing_or_damaged_are_named(pictures, tmp_path):
    with refuses("holds 12; expected 13"):
        read_images(pictures / "fake", 13)
    with refuses("is neither a folder nor an .npz file", error=FileNotFoundError):
        read_images(tmp_path / "x.zip")
    (pictures / "fake" / "05.png").write_bytes(b"no picture")
    with refuses("05.png cannot be read"):
        list(read_images(pictures / "fake"))


def test_an_npz_with_code_in_it_is_refused_without_running_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "evil.npz", np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_images(tmp_path / "evil.npz")
    assert not (tmp_path / "ran").exists()


# what they are worth


def test_the_share_of_saturated_values_is_counted_and_told_where_it_exceeds_the_references(tmp_path):
    reference = saved(tmp_path / "reference.npz", smooth(80, 0))
    drawn = smooth(80, 1)
    drawn[:20] = np.where(drawn[:20] > 128, 255, 0)  # a quarter of the pictures, black and white throughout
    told, result = said(saved(tmp_path / "drawn.npz", drawn), reference)
    assert result["scores"]["saturated"] == 0.25 and result["manifest"]["saturated"] == 0
    assert "25% of the samples' pixel values are black or white, of the reference's 0%" in told[0]
    assert evaluate.saturated(result)
    told, result = said(saved(tmp_path / "again.npz", drawn[::-1]), tmp_path / "drawn.npz")
    assert not evaluate.saturated(result) and not any("saturated" in text for text in told)


def test_a_distance_from_fewer_images_than_features_is_told(tmp_path):
    few, many, more = (saved(tmp_path / f"{n}.npz", smooth(n, seed=n)) for n in (30, 80, 90))
    told = "are too few for a Fréchet distance of 64 features: it depends on their number"
    assert all(told in said(*pair)[0][0] for pair in ((few, many), (many, few)))
    assert not any(told in text for text in said(more, many)[0])


def test_the_judge_of_glyphs_is_first_asked_about_the_reference(tmp_path):
    """It knows glyphs as such, and photographs, drawings or noise as none."""
    own = saved(tmp_path / "glyphs.npz", true_glyphs(80, seed=0))
    other = saved(tmp_path / "other.npz", smooth(80, seed=0))
    digits = glyphs.digits()[0][:80]  # true ones, by many hands
    written = saved(tmp_path / "digits.npz", to_uint8(digits).permute(0, 2, 3, 1).numpy())
    assert not said(other, own)[0]
    for reference in (other, written):
        told, _ = said(own, reference)
        assert len(told) == 1 and "of the reference images are none to them, so these scores say" in told[0]


def test_samples_that_are_not_square_are_cut_as_the_reference_is(tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (80, 32, 48, 3), dtype=np.uint8)
    reference = saved(tmp_path / "reference.npz", smooth(80, 0))
    one = said(saved(tmp_path / "wide.npz", wide), reference)[1]
    other = said(saved(tmp_path / "cut.npz", wide[:, :, 8:40]), reference)[1]
    assert one == other


@pytest.mark.parametrize("count", [-1, 0, 5])
def test_too_few_images_for_a_score_are_refused_before_any_is_read(count, tmp_path):
    path, few = saved(tmp_path / "s.NPZ", smooth(8, 0)), saved(tmp_path / "few.npz", smooth(5, 0))
    with refuses(f"count is {count}; expected 6 or more"):
        evaluate.evaluate(path, path, None, "glyphs", n=count)
    for pair in ((path, few), (few, path)):
        with refuses("few.npz holds 5; expected at least 6"):
            evaluate.evaluate(*pair, None, "glyphs")


@few
def test_only_a_manifest_of_samples_tells_their_making(pictures):
    made = pictures / "manifest.json"
    net, pair = extractor("glyphs"), (pictures / "fake", pictures / "real")
    for kind, known in (("other", False), ("samples", True)):
        made.write_text(json.dumps(dict(kind=kind, interval=3)))
        manifest = evaluate.evaluate(*pair, net, "glyphs", made=made)["manifest"]
        assert ("interval" in manifest["made"]) == known
    made.write_text("{")
    with refuses("manifest.json is not JSON"):
        evaluate.evaluate(*pair, None, "glyphs", made=made)


@few
def test_scores_of_cfg_by_a_null_label_that_was_never_trained_say_so(pictures):
    net, pair = extractor("glyphs"), (pictures / "fake", pictures / "real")
    made, said = (
        pictures / "manifest.json",
        "guided by CFG, and their fine-tune was trained with dropout 0, so",
    )
    for method, dropout in (("cfg", 0.1), ("dog", 0.0), ("cfg", 0.0)):
        made.write_text(json.dumps(dict(kind="samples", method=method, dropout=dropout)))
        wrong = (method, dropout) == ("cfg", 0.0)
        with pytest.warns(UserWarning, match=said) if wrong else contextlib.nullcontext():
            evaluate.evaluate(*pair, net, "glyphs", made=made)


@few
def test_a_set_against_itself_is_told(tmp_path):
    one, other = (saved(tmp_path / f"{seed}.npz", smooth(6, seed)) for seed in (0, 1))
    assert any("the same pictures" in line for line in said(one, one)[0])
    assert not any("the same pictures" in line for line in said(one, other)[0])


def test_a_folder_of_samples_is_read_without_its_contact_sheet_on_either_side(tmp_path):
    pictures = smooth(6, 0)
    for i, picture in enumerate(pictures):
        write_png(picture, image_path(tmp_path, i))
    write_png(255 - pictures[0], tmp_path / "contact.png")
    assert len(list(read_images(tmp_path))) == 7  # any folder of pictures
    (tmp_path / "manifest.json").write_text("{}")
    assert np.array_equal(np.stack(list(read_images(tmp_path))), pictures)


def test_a_folder_of_several_sets_of_samples_is_not_one(tmp_path):
    """As `dit run` leaves it: their pictures, and the sheets beside them, would pass for one set."""
    for name in ("cfg-1.5", "none"):
        write_png(np.zeros((8, 8, 3), np.uint8), tmp_path / name / "images" / "000000.png")
        (tmp_path / name / "manifest.json").write_text("{}")
    with refuses("holds the samples cfg-1.5, none; expected one of these"):
        read_images(tmp_path)
    write_png(np.zeros((8, 8, 3), np.uint8), tmp_path / "more" / "s" / "images" / "000000.png")
    for row in ("cfg", "none"):  # of a sheet, where the manifest of the samples themselves was lost
        (tmp_path / "more" / "s" / "sheet" / row).mkdir(parents=True)
        (tmp_path / "more" / "s" / "sheet" / row / "manifest.json").write_text("{}")
    with refuses("holds the samples cfg, none; expected one of these"):
        read_images(tmp_path / "more" / "s")


# the table


def run(w, frechet, precision=0.7, coverage=0.6, saturated=0.02):
    """A result as `evaluate` makes it."""
    scores = dict(frechet=frechet, precision=precision, recall=0.5, density=1.0, coverage=coverage)
    manifest = dict(features="lite0", weights="c", crop="64", resize="r", reference="x", references=900)
    manifest |= dict(samples=500, saturated=0.02, made=dict(method="dog", w=w))
    return dict(scores=scores | dict(saturated=saturated), manifest=manifest)


def bold(text):
    return [line.split("|")[2].strip() for line in text.splitlines() if "**" in line]


def test_the_table_shows_precision_coverage_and_saturation_beside_the_distance():
    lines = table.table([run(1.5, 20.0)]).splitlines()
    assert lines[2] == "| method | w | frechet | precision | recall | density | coverage | saturated |"
    assert lines[4] == "| dog | 1.5 | **20.00** | 0.700 | 0.500 | 1.000 | 0.600 | 0.020 |"


def test_the_table_is_sorted_and_leaves_out_what_not_all_rows_have():
    old = run(2.0, 30.0)
    del old["scores"]["saturated"]
    lines = table.table([old, run(1.5, 20.126)]).splitlines()
    assert lines[2] == "| method | w | frechet | precision | recall | density | coverage |"
    assert lines[4:] == [
        "| dog | 1.5 | **20.13** | 0.700 | 0.500 | 1.000 | 0.600 |",
        "| dog | 2.0 | 30.00 | 0.700 | 0.500 | 1.000 | 0.600 |",
    ]


@pytest.mark.parametrize(
    "fault, why",
    [
        (dict(precision=0.5), "precision 0.50, the best is 0.70"),
        (dict(coverage=0.1), "coverage 0.10, the best is 0.60"),
        (dict(saturated=0.54), "its samples are saturated"),
    ],
)
def test_the_smallest_distance_is_not_bold_where_another_measure_fails(fault, why):
    text = table.table([run(1.5, 20.0), run(3.0, 10.0, **fault), run(2.0, 25.0)])
    assert bold(text) == ["1.5"] and text.splitlines()[-1] == f"dog 3.0 is not in bold: {why}."


def test_a_little_less_precision_or_coverage_is_no_fault():
    assert bold(table.table([run(1.5, 20.0), run(3.0, 10.0, precision=0.6, coverage=0.5)])) == ["3.0"]


def test_rows_differ_by_every_setting_and_pictures_from_elsewhere_by_their_file(tmp_path):
    made = dict(method="dog", w=1.5, interval=[0.3, None], seed=1, finetuned="a")
    others = dict(two=made | dict(interval=[0.0, 5.0]), three=made | dict(method="none"), hers={})
    for name, more in dict(one=made, **others).items():
        result = run(1.5, 20.0)
        result["manifest"]["made"] = more
        write_json(tmp_path / f"{name}.json", result)
    lines = table.table(table.read(sorted(tmp_path.glob("*.json")))).splitlines()
    assert [line.split(" | ")[:5] for line in (lines[2], *lines[4:])] == [
        ["| method", "w", "interval", "seed", "finetuned"],
        ["| dog", "1.5", "0 to 5", "1", "a"],
        ["| dog", "1.5", "0.3 to inf", "1", "a"],
        ["| hers", "", "", "", ""],
        ["| none", "1.0", "0.3 to inf", "1", "a"],  # whatever its w says
    ]


def test_no_row_is_bold_where_all_fail():
    text = table.table([run(1.5, 20.0, precision=0, coverage=0), run(3.0, 10.0, precision=0, coverage=0)])
    assert not bold(text) and text.count("is not in bold") == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"{}", b"{", b'{"scores": {}}'])
def test_what_is_no_score_is_named(content, tmp_path):
    path = tmp_path / "score.json"
    path.write_bytes(content)
    with refuses(str(path), "expected scores and manifest, as `dit evaluate` writes them"):
        table.read([path])
    for path in (tmp_path, tmp_path / "none.json"):
        with refuses(f"scores is {path}, which is no file; expected scores", error=FileNotFoundError):
            table.read([path])


def test_a_score_survives_the_disk(tmp_path):
    write_json(tmp_path / "score.json", run(1.5, 20.0))
    assert table.read([tmp_path / "score.json"]) == (json.loads(json.dumps(run(1.5, 20.0))),)
