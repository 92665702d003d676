import pickle

import pytest
import torch
import yaml

from pipeline import benchmarks
from pipeline.benchmarks import FOLDER, Benchmark, card_of, from_card, load, names
from pipeline.metrics.distances import frechet_distance
from pipeline.metrics.moments import Moments
from pipeline.noise import noise
from pipeline.registry import SpecError


@pytest.fixture
def content():
    return yaml.safe_load((FOLDER / "digits-kde.yaml").read_text())


WHOLE = [name for name in names() if not card_of(name).fetch]


@pytest.fixture(params=WHOLE)
def each(request):
    return load(request.param)


def test_three_benchmarks_are_shipped_whole():
    assert WHOLE == ["digits-kde", "digits-unet", "gmm"]


def test_a_benchmark_is_whole(each):
    assert isinstance(each, Benchmark)
    assert each.card["name"] == each.name
    assert (each.sigma_min, each.sigma_max) == (0.002, 80)
    x = noise(range(3), each.shape)
    assert each.denoiser(range(len(x)))(x, 1.0).shape == x.shape
    dim = len(each.reference.mean)
    assert each.features(x).shape == (3, dim)
    assert each.reference.covariance.shape == (dim, dim)
    assert len(each.reference_hash) == len(each.model_hash) == 64
    again = pickle.loads(pickle.dumps(each))
    assert (again.card, again.reference_hash) == (each.card, each.reference_hash)


def test_the_shipped_cards_are_named_as_their_files(each):
    assert load(FOLDER / f"{each.name}.yaml").card == each.card


def test_a_name_is_read_once_a_process():
    assert load("gmm") is load("gmm")


@pytest.mark.parametrize("name", ["digits-kde", "gmm"])
def test_exact_samples_are_near_the_reference_and_noise_is_far(name):
    each = load(name)
    exact = frechet_distance(Moments.of(each.features(each.model.draw(4000, 0))), each.reference)
    far = frechet_distance(Moments.of(each.features(noise(range(1000), each.shape))), each.reference)
    assert 0 < exact < 0.01 * far


def test_the_data_are_at_no_distance_from_themselves():
    digits = load("digits-kde")
    assert digits.reference.n == 1797
    fid = frechet_distance(Moments.of(digits.features(digits.model.images())), digits.reference)
    assert abs(fid) < 1e-8


def test_the_mixture_has_an_exact_reference():
    mixture = load("gmm")
    assert mixture.reference.n is None
    torch.testing.assert_close(torch.from_numpy(mixture.reference.mean), mixture.model.mean)
    torch.testing.assert_close(torch.from_numpy(mixture.reference.covariance), mixture.model.covariance)


def test_the_mixture_is_what_its_card_says():
    mixture = load("gmm")
    assert (mixture.version, mixture.shape) == (2, (1, 12, 12))
    assert (mixture.model.patches, len(mixture.model.mixture.means)) == (36, 27)
    denoise, x = mixture.model.denoiser(), noise(range(3), mixture.shape)
    for sigma in (80.0, 1.0, 0.01, 0.002):
        assert denoise(mixture.model.draw(3, 0) + sigma * x, sigma).isfinite().all()


def test_a_path_is_a_benchmark_too(content, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content | {"name": "mine", "sigma_max": 40}))
    for given in (path, str(path)):
        assert load(given).name == "mine"
        assert load(given).sigma_max == 40.0


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"sigma_mim": 1.0}, "sigma_mim", "did you mean 'sigma_min'"),
        ({"version": None}, "version", "integer"),
        ({"version": "1"}, "version", "given '1'"),
        ({"version": 0}, "version", "greater than or equal to 1"),
        ({"reference": "dat"}, "reference", "did you mean 'data'"),
        ({"quantise": "yes"}, "quantise", "boolean"),
        ({"quantise": False}, "quantise", "takes pixels"),
        ({"features": "digit-cnn"}, "features", "did you mean 'digits-cnn'"),
        ({"model": {"name": "kdd", "data": "digits"}}, "model.name", "did you mean 'kde'"),
        ({"model": {"name": "kde", "data": "digit"}}, "model.data", "did you mean 'digits'"),
        ({"model": {"name": "kde"}}, "model.data", "required"),
        ({"model": {"name": "kde", "data": "digits", "dat": 1}}, "model.dat", "unknown key"),
        ({"model": "kde"}, "model", "is no model, given 'kde'; allowed: diffusers:SOURCE, edm:PATH"),
        ({"model": 3}, "model", "dictionary"),
        ({"sigma_min": 90.0}, "sigma_min", "< 80"),
        ({"sigma_min": -1.0}, "sigma_min", "greater than 0"),
        ({"sigma_max": float("inf")}, "sigma_max", "finite"),
        ({"reference": "exact"}, "reference", "no exact moments"),
    ],
)
def test_a_wrong_card_is_one_line_with_its_place(content, tmp_path, change, path, says):
    file = tmp_path / "card.yaml"
    file.write_text(yaml.safe_dump(content | change))
    with pytest.raises(SpecError, match=says) as caught:
        load(file)
    assert caught.value.path == path
    assert caught.value.file == str(file)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(content):
    del content["title"]
    with pytest.raises(SpecError, match="title: is required and missing"):
        from_card(content)


def test_exact_moments_are_of_unquantised_samples():
    card = load("gmm").card
    with pytest.raises(SpecError, match="quantise: false"):
        from_card(card | {"quantise": True})
    with pytest.raises(SpecError, match="no data"):
        from_card(card | {"reference": "data"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "is not YAML"),
        ("- 1\n- 2\n", "holds no mapping"),
        ("", "holds no mapping"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_card(tmp_path, text, says):
    file = tmp_path / "card.yml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SpecError, match=says) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_an_unreadable_file_is_told_of(tmp_path):
    with pytest.raises(SpecError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\xff")
    with pytest.raises(SpecError, match="not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(SpecError, match="did you mean 'digits-kde'"):
        load("digit-kde")


def test_an_object_tag_is_not_run(tmp_path):
    file = tmp_path / "card.yaml"
    file.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(SpecError, match="is not YAML"):
        benchmarks.load(file)
