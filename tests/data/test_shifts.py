"""Shifts: the right change, of growing size, the same for the same key."""

import colorsys
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from ntkuq.data import DataError, Dataset, Split, load, shifts
from ntkuq.data.shifts.base import generator
from ntkuq.data.shifts.blur import soft_disk
from ntkuq.data.shifts.light import clouds
from ntkuq.data.shifts.sampling import bilinear


KEY = jax.random.key(7)

GRAY = [
    shifts.GaussianNoise(),
    shifts.ShotNoise(),
    shifts.ImpulseNoise(),
    shifts.SpeckleNoise(),
    shifts.GaussianBlur(),
    shifts.DefocusBlur(),
    shifts.MotionBlur(),
    shifts.Fog(),
    shifts.Brightness(),
    shifts.Contrast(),
    shifts.Pixelate(),
    shifts.ElasticTransform(),
    shifts.Rotation(),
    shifts.Translation(),
]
COLOR = [*GRAY, shifts.Saturate()]
FIXED = (
    shifts.GaussianBlur,
    shifts.DefocusBlur,
    shifts.Brightness,
    shifts.Contrast,
    shifts.Pixelate,
    shifts.Saturate,
)
TABLE = [
    shifts.FeatureNoise(),
    shifts.MeanShift(),
    shifts.ScaleShift(),
    shifts.FeatureDropout(),
    shifts.FeatureDropout(fill=shifts.DrawFill()),
    shifts.MissingFeatures(),
    shifts.MissingFeatures(fill=shifts.DrawFill()),
    shifts.CategoryFlip(columns=(7,)),
]


def photos(n=6, side=32):
    """Smooth colored images with a full range of intensities, (n, side, side, 3)."""
    return np.moveaxis(
        clouds((3 * n, side, side), 1.6, np.random.default_rng(0)).reshape(
            n, 3, side, side
        ),
        1,
        -1,
    ).astype(np.float32)


def digits():
    return load("digits").test.x.reshape(-1, 8, 8)


def changes(shift, x, **options):
    """Mean absolute change at each severity."""
    return [
        np.abs(np.asarray(shift(x, severity=s, key=KEY, **options), float) - x).mean()
        for s in range(6)
    ]


def names(shift):
    fill = getattr(shift, "fill", None)
    return shifts.label(shift) + ("" if fill is None else type(fill).__name__)


# --- all image shifts ---


@pytest.mark.parametrize("shift", COLOR, ids=names)
def test_change_grows_with_severity(shift):
    found = changes(shift, photos())
    assert found[0] == 0
    assert (np.diff(found) > 0).all(), found


@pytest.mark.parametrize("shift", GRAY, ids=names)
def test_change_grows_with_severity_on_digits(shift):
    if isinstance(shift, shifts.Pixelate):
        # the published grids are for 32 pixels; these are nested on 8
        shift = shifts.Pixelate(levels=(1, 1, 1 / 2, 1 / 4, 1 / 8))
        found = changes(shift, digits())[2:]
    else:
        found = changes(shift, digits())
    assert (np.diff(found) > 0).all(), found


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_change_grows_with_severity_on_named_sets(name, data_dir, monkeypatch):
    monkeypatch.setenv("NTKUQ_DATA", str(data_dir))
    other = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}[name]
    x = shifts.outside(other)[name][:150]
    for shift in GRAY:
        found = changes(shift, x)
        assert (np.diff(found) > 0).all(), (names(shift), found)


@pytest.mark.parametrize("shift", COLOR, ids=names)
def test_same_key_same_result(shift):
    x = photos(2)
    first, again, other = (
        shift(x, severity=3, key=key) for key in (KEY, KEY, jax.random.key(8))
    )
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == isinstance(shift, FIXED)
    np.testing.assert_array_equal(
        first, shift(x, severity=3, key=jax.random.PRNGKey(7))
    )


@pytest.mark.parametrize("shift", COLOR, ids=names)
def test_shape_dtype_range_and_input_are_kept(shift):
    x = photos(2)
    before = x.copy()
    for given in (x, x.astype(np.float64), x.astype(np.float16), jnp.asarray(x)):
        new = shift(given, severity=5, key=KEY)
        assert isinstance(new, np.ndarray)
        assert (new.shape, new.dtype) == (given.shape, given.dtype)
        assert new.min() >= 0
        assert new.max() <= 1
        np.testing.assert_allclose(
            shift(given, severity=0, key=KEY), np.asarray(given), rtol=0
        )
    np.testing.assert_array_equal(x, before)
    levels = np.rint(255 * x).astype(np.uint8)
    new = shift(levels, severity=4, key=KEY)
    exact = shift(levels.astype(np.float32) / 255, severity=4, key=KEY)
    assert new.dtype == np.uint8
    # half a level of rounding
    assert np.abs(new / 255 - exact).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("shift", COLOR, ids=names)
def test_layouts_agree(shift):
    x = photos(2)
    last = shift(x, severity=2, key=KEY)
    first = shift(np.moveaxis(x, -1, 1), severity=2, key=KEY)
    np.testing.assert_array_equal(np.moveaxis(first, 1, -1), last)
    flat = shifts.AsImages(shift, (3, 32, 32), channel_axis=0)
    rows = np.ascontiguousarray(np.moveaxis(x, -1, 1)).reshape(2, -1)
    np.testing.assert_array_equal(
        flat(rows, severity=2, key=KEY).reshape(2, 3, 32, 32), first
    )
    assert shifts.label(flat) == shifts.label(shift)
    if not isinstance(shift, shifts.Saturate):
        gray = shift(x[..., 0], severity=2, key=KEY)
        np.testing.assert_array_equal(
            gray, shift(x[..., :1], severity=2, key=KEY)[..., 0]
        )
        rows = shifts.AsImages(shift, (32, 32))(
            x[..., 0].reshape(2, -1), severity=2, key=KEY
        )
        np.testing.assert_array_equal(rows.reshape(2, 32, 32), gray)


def test_parts_of_many_images_are_changed_alike(monkeypatch):
    x = photos(5)
    whole = [s(x, severity=3, key=KEY) for s in COLOR if isinstance(s, FIXED)]
    monkeypatch.setattr(shifts.images, "_ENTRIES", 2 * x[0].size)
    for shift, expected in zip(
        [s for s in COLOR if isinstance(s, FIXED)], whole, strict=True
    ):
        np.testing.assert_allclose(
            shift(x, severity=3, key=KEY), expected, rtol=0, atol=1e-6
        )
    # parts draw anew: equal images in different parts get different noise
    same = np.full((4, 32, 32, 3), 0.5, np.float32)
    noisy = shifts.GaussianNoise()(same, severity=3, key=KEY)
    assert len({image.tobytes() for image in noisy}) == 4


@pytest.mark.parametrize("shift", COLOR, ids=names)
def test_constant_and_tiny_images(shift):
    for x in (
        np.zeros((2, 5, 7, 3)),
        np.ones((2, 5, 7, 3)),
        np.full((1, 1, 1, 3), 0.5),
    ):
        new = shift(x, severity=5, key=KEY)
        assert np.isfinite(new).all()
        assert new.shape == x.shape


# --- noise ---


def test_gaussian_noise_has_its_standard_deviation():
    x = np.full((40, 32, 32), 0.5)
    z = (shifts.GaussianNoise()(x, severity=1, key=KEY) - x) / 0.04
    n = z.size
    # chi-square band at 1 - 1e-4; 0.5 / 0.04 = 12.5 deviations, so nothing is clipped
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], n) / n
    assert low < np.mean(z**2) < high
    assert abs(z.mean()) < 4 / math.sqrt(n)


def test_shot_noise_counts_photons():
    x = np.full((40, 32, 32), 0.3)
    new = shifts.ShotNoise()(x, severity=5, key=KEY)
    counts = new * 50
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    n = x.size
    # variance of a Poisson(15) count; that of its sample variance is
    # (mu + 2 mu^2) / n
    mean, spread = 15, math.sqrt((15 + 2 * 15**2) / n)
    assert abs(counts.mean() - mean) < 4 * math.sqrt(mean / n)
    assert abs(counts.var() - mean) < 4 * spread
    assert shifts.ShotNoise()(0 * x, severity=5, key=KEY).max() == 0


def test_impulse_noise_hits_its_share_and_keeps_what_it_hit():
    x = np.full((40, 32, 32), 0.5)
    hits = [shifts.ImpulseNoise()(x, severity=s, key=KEY) for s in (1, 3, 5)]
    n = x.size
    for new, share in zip(hits, (0.01, 0.03, 0.07), strict=True):
        low, high = stats.binom.ppf([5e-5, 1 - 5e-5], n, share)
        assert low <= (new != 0.5).sum() <= high
        low, high = stats.binom.ppf([5e-5, 1 - 5e-5], n, share / 2)
        assert low <= (new == 1).sum() <= high
        assert set(np.unique(new)) == {0, 0.5, 1}
    for weak, strong in itertools.pairwise(hits):
        np.testing.assert_array_equal(strong[weak != 0.5], weak[weak != 0.5])


def test_speckle_noise_is_gaussian_noise_in_proportion():
    x = np.full((1, 32, 32), 0.4)
    speckle = shifts.SpeckleNoise(levels=(0.1,))(x, severity=1, key=KEY)
    noise = shifts.GaussianNoise(levels=(0.1 * 0.4,))(x, severity=1, key=KEY)
    np.testing.assert_allclose(speckle, noise, atol=1e-12)


# --- blur ---


def correlated(image, kernel):
    """A loop over pixels; the border is repeated."""
    reach = len(kernel) // 2
    padded = np.pad(image, reach, mode="edge")
    out = np.zeros_like(image)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            part = padded[i : i + len(kernel), j : j + len(kernel)]
            out[i, j] = (part * kernel).sum()
    return out


def test_gaussian_blur_by_hand():
    image = np.random.default_rng(0).random((9, 7))
    taps = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    new = shifts.GaussianBlur()(image[None], severity=5, key=KEY)[0]
    np.testing.assert_allclose(new, correlated(image, kernel), atol=1e-12)


@pytest.mark.parametrize("severity", [1, 3, 4, 5])
def test_defocus_blur_by_hand(severity):
    image = np.random.default_rng(0).random((9, 7))
    radius, softness = shifts.DefocusBlur().levels[severity - 1]
    disk = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            disk[i, j] = math.hypot(i - 2, j - 2) <= radius
    a = math.exp(-0.5 / softness**2)
    soft = np.outer([a, 1, a], [a, 1, a])
    kernel = ndimage.convolve(disk, soft / soft.sum(), mode="constant")
    kernel /= kernel.sum()
    new = shifts.DefocusBlur()(image[None], severity=severity, key=KEY)[0]
    np.testing.assert_allclose(new, correlated(image, kernel), atol=1e-12)


def test_the_last_disk_is_a_square():
    np.testing.assert_allclose(soft_disk(1.5, 1e-3)[1:4, 1:4], 1 / 9)


def test_motion_blur_moves_a_ramp_by_the_mean_step():
    # Interpolation is exact on a ramp, so the blur moves it by the mean step.
    rows, columns = np.mgrid[:40, :40]
    ramps = np.stack([rows, columns]) / 100
    new = shifts.MotionBlur()(ramps, severity=2, key=KEY)
    angle = generator(KEY, 0).uniform(-np.pi / 4, np.pi / 4, size=2)
    weights = np.exp(-0.5 * (np.arange(7) / 1.5) ** 2)
    step = (weights * np.arange(7)).sum() / weights.sum() / 100
    inner = np.s_[10:30, 10:30]
    np.testing.assert_allclose(
        (new - ramps)[0][inner], step * np.sin(angle[0]), atol=1e-12
    )
    np.testing.assert_allclose(
        (new - ramps)[1][inner], step * np.cos(angle[1]), atol=1e-12
    )


# --- light ---


def test_fog_by_its_formula():
    x = np.random.default_rng(0).random((3, 8, 8))
    f = clouds((3, 8, 8), 2.0, generator(KEY, 0))
    most = x.max(axis=(1, 2), keepdims=True)
    new = shifts.Fog()(x, severity=4, key=KEY)
    np.testing.assert_allclose(new, (x + f) * most / (most + 1), atol=1e-12)


def test_brightness_and_saturation_by_colorsys():
    x = np.random.default_rng(0).random((2, 3, 4, 3))
    x[0, 0, 0] = 0
    bright = shifts.Brightness()(x, severity=5, key=KEY).reshape(-1, 3)
    colored = shifts.Saturate()(x, severity=5, key=KEY).reshape(-1, 3)
    for row, (r, g, b) in enumerate(x.reshape(-1, 3)):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        np.testing.assert_allclose(
            bright[row], colorsys.hsv_to_rgb(h, s, min(v + 0.3, 1)), atol=1e-12
        )
        if s > 0:
            expected = colorsys.hsv_to_rgb(h, min(2.5 * s + 0.2, 1), v)
            np.testing.assert_allclose(colored[row], expected, atol=1e-12)


def test_saturation_leaves_gray_as_it_is():
    gray = np.repeat(np.random.default_rng(0).random((2, 4, 4, 1)), 3, axis=-1)
    np.testing.assert_array_equal(shifts.Saturate()(gray, severity=5, key=KEY), gray)
    with pytest.raises(DataError, match=r"expected three channels.* came 1"):
        shifts.Saturate()(gray[..., 0], severity=1, key=KEY)


def test_contrast_scales_the_spread_and_keeps_the_mean():
    x = 0.4 + 0.2 * np.random.default_rng(0).random((3, 8, 8, 3))
    new = shifts.Contrast()(x, severity=5, key=KEY)
    np.testing.assert_allclose(new.mean(axis=(1, 2)), x.mean(axis=(1, 2)))
    np.testing.assert_allclose(new.std(axis=(1, 2)), 0.15 * x.std(axis=(1, 2)))


# --- places ---


def test_bilinear_reads_between_pixels():
    rng = np.random.default_rng(0)
    images = rng.random((2, 6, 5, 2))
    rows, columns = rng.uniform(-3, 9, size=(2, 2, 4, 7))
    found = bilinear(images, rows, columns)
    for i in range(2):
        for c in range(2):
            expected = ndimage.map_coordinates(
                images[i, ..., c], [rows[i], columns[i]], order=1, mode="nearest"
            )
            np.testing.assert_allclose(found[i, ..., c], expected, atol=1e-12)


@pytest.mark.parametrize("side", [28, 32, 9])
def test_pixelate_by_hand(side):
    image = np.random.default_rng(0).random((side, side))
    for severity, share in enumerate(shifts.Pixelate().levels, 1):
        cells = int(share * side)
        owner = [int((i + 0.5) * cells / side + 1e-12) for i in range(side)]
        expected = np.zeros_like(image)
        for i in range(side):
            for j in range(side):
                rows = [k for k in range(side) if owner[k] == owner[i]]
                columns = [k for k in range(side) if owner[k] == owner[j]]
                mine = image[np.ix_(rows, columns)]
                expected[i, j] = np.mean(mine)
        new = shifts.Pixelate()(image[None], severity=severity, key=KEY)[0]
        np.testing.assert_allclose(new, expected, atol=1e-12)
        assert len(np.unique(new.round(12))) <= cells**2


def test_quarter_turns_are_exact():
    x = np.random.default_rng(0).random((20, 6, 6))
    new = shifts.Rotation(levels=(90,))(x, severity=1, key=KEY)
    sides = generator(KEY, 0).choice([-1.0, 1.0], size=20)
    assert set(sides) == {-1, 1}
    for image, turned, side in zip(x, new, sides, strict=True):
        np.testing.assert_allclose(turned, np.rot90(image, -int(side)), atol=1e-12)


def test_translation_by_scipy():
    x = np.random.default_rng(0).random((3, 16, 20))
    new = shifts.Translation()(x, severity=4, key=KEY)
    angles = generator(KEY, 0).uniform(0, 2 * np.pi, size=3)
    for image, moved, angle in zip(x, new, angles, strict=True):
        far = 4 * np.array([np.sin(angle), np.cos(angle)])
        expected = ndimage.shift(image, far, order=1, mode="nearest")
        np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_a_warp_grows_in_proportion_and_has_its_size():
    columns = np.arange(64) + np.zeros((64, 1))
    ramps = np.repeat((columns / 63)[None], 40, axis=0)
    shift = shifts.ElasticTransform()
    weak, strong = (
        (63 * (shift(ramps, severity=s, key=KEY) - ramps))[:, 16:48, 16:48]
        for s in (2, 4)
    )
    np.testing.assert_allclose(strong, 2.25 * weak, atol=1e-9)
    # 0.02 x 64 pixels over the whole field; the inner quarter of 40 fields, with a
    # correlation length of 6.4 x 2 pixels, holds some 40 x 6 independent patches
    assert abs(np.sqrt(np.mean(weak**2)) / 1.28 - 1) < 4 / math.sqrt(2 * 240)


# --- refusals ---


@pytest.mark.parametrize("severity", [-1, 6, 2.5, True, "3"])
def test_severities_that_do_not_exist(severity):
    for shift in (shifts.Fog(), shifts.FeatureNoise()):
        with pytest.raises(Exception, match=r"severity"):
            shift(np.zeros((2, 8, 8)), severity=severity, key=KEY)


def test_images_that_are_none():
    noise = shifts.GaussianNoise()
    cases = [
        (np.zeros((3, 64)), r"shape \(3, 64\); for flat rows use AsImages"),
        (np.zeros((0, 8, 8)), r"came shape \(0, 8, 8\)"),
        (np.zeros((2, 8, 8, 7)), r"1, 3 or 4 channels .* \(2, 8, 8, 7\)"),
        (np.zeros((2, 8, 8), int), r"as uint8, came int64"),
        (np.full((2, 8, 8), 255.0), r"in \[0, 1\], came 255 to 255"),
        (np.full((2, 8, 8), -0.5), r"in \[0, 1\], came -0.5 to -0.5"),
        (np.full((2, 8, 8), np.nan), r"in \[0, 1\], came nan"),
    ]
    for x, message in cases:
        with pytest.raises(DataError, match=message):
            noise(x, severity=0, key=KEY)
    flat = shifts.AsImages(noise, (8, 8))
    with pytest.raises(DataError, match=r"GaussianNoise: expected rows of 64"):
        flat(np.zeros((3, 63)), severity=1, key=KEY)
    for shape, axis in (((64,), None), ((8, 8), 2), ((1, 2, 3, 4), None)):
        with pytest.raises(DataError, match="AsImages: expected shape"):
            shifts.AsImages(noise, shape, axis)


# --- tables ---


@pytest.fixture(scope="module")
def concrete():
    return load("concrete")


@pytest.mark.parametrize("shift", TABLE, ids=names)
def test_tables_change_more_with_severity(shift, concrete):
    x, options = concrete.test.x, {"reference": concrete.train.x}
    scale = concrete.train.x.std(axis=0)
    found = changes(shift, x / scale, reference=concrete.train.x / scale)
    assert found[0] == 0
    assert (np.diff(found) > 0).all(), found
    new = shift(x, severity=3, key=KEY, **options)
    np.testing.assert_array_equal(new, shift(x, severity=3, key=KEY, **options))
    other = shift(x, severity=3, key=jax.random.key(1), **options)
    assert not np.array_equal(new, other)
    single = shift(x.astype(np.float32), severity=3, key=KEY, **options)
    assert single.dtype == np.float32
    assert single.shape == x.shape


def test_feature_noise_has_the_spread_of_the_reference():
    reference = np.array([[0.0, 3.0, 0.1], [2.0, 3.0, 0.1], [4.0, 3.0, 0.1]])
    x = np.ones((20_000, 3))
    new = shifts.FeatureNoise()(x, severity=3, reference=reference, key=KEY)
    z = (new[:, 0] - 1) / (0.5 * math.sqrt(8 / 3))
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], len(z)) / len(z)
    assert low < np.mean(z**2) < high
    # constant features stay, 0.1 too, whose mean is not exact
    np.testing.assert_array_equal(new[:, 1:], x[:, 1:])


def test_mean_shift_moves_all_rows_alike(concrete):
    x, reference = concrete.test.x, concrete.train.x
    new = shifts.MeanShift()(x, severity=5, reference=reference, key=KEY)
    moved = (new - x) / reference.std(axis=0)
    np.testing.assert_allclose(np.abs(moved), 2, rtol=1e-9)
    np.testing.assert_allclose(moved, np.tile(moved[:1], (len(x), 1)), rtol=1e-9)
    assert set(np.sign(moved[0])) == {-1, 1}


def test_scale_shift_multiplies_whole_features(concrete):
    x = concrete.test.x + 1
    new = shifts.ScaleShift()(x, severity=4, key=KEY)
    factor = new / x
    assert sorted(factor[0].round(12)) == [1] * 4 + [2] * 4
    np.testing.assert_allclose(factor, np.tile(factor[:1], (len(x), 1)))
    one = shifts.ScaleShift(share=0.01)(x, severity=5, key=KEY)
    assert ((one != x).all(axis=0)).sum() == 1
    with pytest.raises(DataError, match=r"share of features in \(0, 1\], came 0"):
        shifts.ScaleShift(share=0)


@pytest.mark.parametrize("fill", [shifts.MeanFill(), shifts.DrawFill()])
def test_dropout_hits_its_share_and_fills_from_the_reference(fill):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(7, 3))
    x = np.full((5000, 3), 9.0)
    shift = shifts.FeatureDropout(fill=fill)
    weak, strong = (shift(x, severity=s, reference=reference, key=KEY) for s in (2, 5))
    for new, share in ((weak, 0.1), (strong, 0.5)):
        low, high = stats.binom.ppf([5e-5, 1 - 5e-5], x.size, share)
        assert low <= (new != 9).sum() <= high
    np.testing.assert_array_equal(strong[weak != 9], weak[weak != 9])
    for j in range(3):
        values = np.unique(strong[strong[:, j] != 9, j])
        if isinstance(fill, shifts.MeanFill):
            np.testing.assert_allclose(values, reference[:, j].mean())
        else:
            np.testing.assert_array_equal(values, np.sort(reference[:, j]))


def test_missing_features_are_missing_everywhere(concrete):
    x, reference = concrete.test.x, concrete.train.x
    gone = []
    for severity in range(1, 6):
        new = shifts.MissingFeatures()(
            x, severity=severity, reference=reference, key=KEY
        )
        hit = (new != x).any(axis=0)
        np.testing.assert_allclose(
            new[:, hit], np.tile(reference.mean(axis=0)[hit], (len(x), 1))
        )
        gone.append(set(np.flatnonzero(hit)))
    assert [len(g) for g in gone] == [1, 2, 3, 4, 6]
    assert all(a <= b for a, b in itertools.pairwise(gone))


def test_categories_flip_evenly_to_the_others():
    x = np.tile([[0, 5]], (9000, 1))
    reference = np.array([[0, 5], [1, 5], [2, 5], [7, 5]])
    flip = shifts.CategoryFlip(columns=(0,), levels=(0.4, 1.0))
    new = flip(x, severity=2, reference=reference, key=KEY)
    assert new.dtype == x.dtype
    values, counts = np.unique(new[:, 0], return_counts=True)
    assert values.tolist() == [1, 2, 7]
    assert stats.chisquare(counts).pvalue > 1e-4
    some = flip(x, severity=1, reference=reference, key=KEY)[:, 0]
    low, high = stats.binom.ppf([5e-5, 1 - 5e-5], 9000, 0.4)
    assert low <= (some != 0).sum() <= high
    # a value that the reference does not have turns into any of those it has
    unknown = flip(x + 3, severity=2, reference=reference, key=KEY)[:, 0]
    assert np.unique(unknown).tolist() == [0, 1, 2, 7]
    # where there is one value only there is no other
    alone = shifts.CategoryFlip(columns=(1,), levels=(1.0,))
    same = alone(x, severity=1, reference=reference, key=KEY)
    np.testing.assert_array_equal(same, x)


def test_one_feature_may_come_without_an_axis():
    x = np.linspace(0, 1, 50)
    new = shifts.FeatureNoise()(x, severity=2, reference=x, key=KEY)
    wide = shifts.FeatureNoise()(x[:, None], severity=2, reference=x[:, None], key=KEY)
    np.testing.assert_array_equal(new, wide[:, 0])


def test_tables_that_do_not_fit():
    noise, x = shifts.FeatureNoise(), np.zeros((4, 2))
    cases = [
        (x, None, r"FeatureNoise: expected reference=, the inputs of the training"),
        (x, np.zeros((3, 5)), r"reference of shape \(M, 2\).* came shape \(3, 5\)"),
        (x, np.zeros((0, 2)), r"reference of shape \(M, 2\).* came shape \(0, 2\)"),
        (x, np.full((3, 2), np.nan), r"reference of finite numbers"),
        (np.zeros((4, 8, 8)), None, r"shape \(4, 8, 8\); for images use an image"),
        (np.zeros((0, 2)), x, r"came shape \(0, 2\)"),
        (x.astype(int), x, r"expected floats, came int64; .* CategoryFlip"),
    ]
    for table, reference, message in cases:
        with pytest.raises(DataError, match=message):
            noise(table, severity=1, reference=reference, key=KEY)
    with pytest.raises(DataError, match=r"columns from 0 to 1, came 2"):
        shifts.CategoryFlip(columns=(2,))(x, severity=1, reference=x, key=KEY)


# --- data sets ---


def test_corrupted_keeps_all_but_the_inputs(concrete):
    x, y = concrete.test.x, concrete.test.y
    data = Dataset(
        x,
        y,
        noise_scale=np.ones(len(y)),
        group=np.arange(len(y)) % 5,
        weight=np.ones(len(y)),
        features=concrete.test.features,
        target="strength",
        units="MPa",
        name="mixes",
    )
    options = {"reference": concrete.train.x, "key": KEY}
    new = shifts.corrupted(data, shifts.FeatureNoise(), severity=2, **options)
    np.testing.assert_array_equal(
        new.x, shifts.FeatureNoise()(x, severity=2, **options)
    )
    for name in ("y", "noise_scale", "group", "weight"):
        np.testing.assert_array_equal(getattr(new, name), getattr(data, name))
    assert (new.features, new.target, new.units) == (data.features, "strength", "MPa")
    assert new.name == "mixes, FeatureNoise 2"
    same = shifts.corrupted(data, shifts.FeatureNoise(), severity=0, **options)
    assert same.fingerprint() == data.fingerprint()
    assert same.name == "mixes"


def test_corrupted_takes_functions_and_checks_them(concrete):
    data = concrete.test

    def wet(x, *, severity, reference, key):
        return x + severity

    new = shifts.corrupted(data, wet, severity=2, key=KEY)
    np.testing.assert_array_equal(new.x, data.x + 2)
    assert new.name == "concrete, wet 2"
    with pytest.raises(DataError, match=r"of shape \(103, 8\), .* came \(103, 7\)"):
        shifts.corrupted(data, lambda x, **options: x[:, 1:], severity=1, key=KEY)
    tree = Dataset({"a": data.x}, data.y)
    with pytest.raises(
        DataError, match="expected inputs that are one array, came dict"
    ):
        shifts.corrupted(tree, wet, severity=1, key=KEY)


# --- splits ---


def rows_of(part):
    return [tuple(row) for row in np.column_stack([part.x, part.y])]


def test_gaps_by_hand(concrete):
    found = shifts.gap_splits(concrete)
    x = np.concatenate([concrete.train.x, concrete.test.x])
    y = np.concatenate([concrete.train.y, concrete.test.y])
    assert tuple(found) == concrete.train.features
    assert not found.omitted
    for j, (_, split) in enumerate(found.items()):
        # rank by sorting pairs (value, row)
        ranked = sorted(range(1030), key=lambda i, j=j: (x[i, j], i))
        test = sorted(ranked[343:686])
        train = sorted(ranked[:343] + ranked[686:])
        assert (len(split.train), split.calibrate, len(split.test)) == (687, None, 343)
        np.testing.assert_array_equal(split.test.x, x[test])
        np.testing.assert_array_equal(split.train.y, y[train])
    fine = found["fine aggregate"]
    assert fine.train.x[:, 6].min() < fine.test.x[:, 6].min()
    assert fine.train.x[:, 6].max() > fine.test.x[:, 6].max()


@pytest.mark.parametrize("n", [7, 8, 9, 30, 31])
def test_sizes_of_gaps_and_tails(n):
    x = np.random.default_rng(n).permutation(n).astype(float)[:, None]
    data = Dataset(x, x[:, 0])
    gap = shifts.gap_splits(data)["column 0"]
    assert sorted(gap.test.y) == list(range(n // 3, 2 * n // 3))
    tail = shifts.tail_splits(data)["column 0"]
    train = list(range(math.ceil(n / 6), math.floor(5 * n / 6)))
    assert sorted(tail.train.y) == train
    for split in (gap, tail):
        assert sorted([*split.train.y, *split.test.y]) == list(range(n))


def test_ties_are_cut_or_kept_together():
    values = np.array([0, 0, 1, 1, 1, 1, 1, 2, 2.0])
    data = Dataset(values[:, None], np.arange(9.0), features=("a",))
    ranks = shifts.gap_splits(data)
    assert ranks["a"].test.y.tolist() == [3, 4, 5]
    assert ranks.tied == {"a": 1.0}
    whole = shifts.gap_splits(data, cut=shifts.ByValue())
    assert whole["a"].test.y.tolist() == [2, 3, 4, 5, 6]
    assert whole.tied == {"a": 0.0}
    tails = shifts.tail_splits(data, cut=shifts.ByValue())
    assert tails["a"].test.y.tolist() == [0, 1, 7, 8]
    many = Dataset(np.r_[np.zeros(5), np.arange(1.0, 5)][:, None], np.arange(9.0))
    with pytest.raises(DataError, match="column 0: no values below the middle part"):
        shifts.gap_splits(many, cut=shifts.ByValue())


def test_concrete_by_value_shares_no_value(concrete):
    for splits in (shifts.gap_splits, shifts.tail_splits):
        found = splits(concrete, cut=shifts.ByValue())
        assert set(found) | set(found.omitted) == set(concrete.train.features)
        assert {"slag", "fly ash", "superplasticizer"} <= set(found.omitted)
        for name, split in found.items():
            j = concrete.train.features.index(name)
            assert not set(split.train.x[:, j]) & set(split.test.x[:, j])
            assert found.tied[name] == 0


def test_features_without_a_middle_are_left_out():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.random(30), np.arange(30) % 2, np.ones(30)])
    data = Dataset(x, x[:, 0], features=("a", "b", "c"))
    found = shifts.gap_splits(data)
    assert list(found) == ["a"]
    assert found.omitted["b"] == "2 distinct values, at least 3 are needed"
    assert found.omitted["c"].startswith("1 distinct values")
    with pytest.raises(KeyError, match="b was left out: 2 distinct values"):
        found["b"]
    with pytest.raises(KeyError, match="there is no split 'd'"):
        found["d"]
    with pytest.raises(DataError, match=r"expected a feature .* b: 2 distinct"):
        shifts.gap_splits(data, features=["b"])
    with pytest.raises(DataError, match=r"came 'A' \(nearest: 'a'\)"):
        shifts.tail_splits(data, features=["A"])
    with pytest.raises(DataError, match=r"x of shape \(N, D\) .* came \(4, 2, 2\)"):
        shifts.gap_splits(Dataset(np.zeros((4, 2, 2)), np.zeros(4)))


@pytest.mark.parametrize(
    ("name", "count"), [("boston", 12), ("power", 4), ("yacht", 6)]
)
def test_as_many_splits_as_published(name, count, data_dir, monkeypatch):
    monkeypatch.setenv("NTKUQ_DATA", str(data_dir))
    data = load(name)
    for splits in (shifts.gap_splits, shifts.tail_splits):
        assert len(splits(data)) == count


def test_all_parts_of_a_split_are_joined():
    x = np.arange(12.0)[:, None]
    data = Dataset(x, x[:, 0], group=np.arange(12), weight=np.ones(12))
    parts = Split(data.take(range(6)), data.take([6, 7]), data.take(range(8, 12)))
    joined, whole = shifts.gap_splits(parts), shifts.gap_splits(data)
    assert joined["column 0"].fingerprint() == whole["column 0"].fingerprint()


def test_groups_of_the_parts_keep_their_names():
    x, sites = np.arange(6.0)[:, None], ["b", "c", "b", "a", "c", "a"]
    first, last = (
        Dataset(x[rows], x[rows, 0], group=sites[rows])
        for rows in (slice(3), slice(3, 6))
    )
    found = shifts.gap_splits(Split(first, None, last))["column 0"]
    for part in (found.train, found.test):
        named = [part.groups[code] for code in part.group]
        assert named == [sites[int(y)] for y in part.y]


# --- outside sets ---


def test_outside_sets(data_dir, monkeypatch):
    monkeypatch.setenv("NTKUQ_DATA", str(data_dir))
    shapes = {
        "fashion_mnist": {"mnist": (10000, 28, 28), "notmnist": (10000, 28, 28)},
        "mnist": {"fashion_mnist": (10000, 28, 28), "notmnist": (10000, 28, 28)},
        "cifar10": {"svhn": (1083, 32, 32, 3), "cifar100": (916, 32, 32, 3)},
    }
    for name, expected in shapes.items():
        found = shifts.outside(name)
        assert {other: x.shape for other, x in found.items()} == expected
        for x in found.values():
            assert x.dtype == np.float32
            assert (x.min(), x.max()) == (0, 1)
    # the means that are published for the test images of MNIST
    assert abs(shifts.outside("fashion_mnist")["mnist"].mean() - 0.1325) < 5e-5


def test_outside_sets_that_are_not_there(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"came 'cifar' \(nearest: 'cifar10'\)"):
        shifts.outside("cifar")
    monkeypatch.delenv("NTKUQ_DATA", raising=False)
    with pytest.raises(DataError, match=r"expected svhn/ood.npz .* NTKUQ_DATA"):
        shifts.outside("cifar10")
    monkeypatch.setenv("NTKUQ_DATA", str(tmp_path))
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "ood.npz").write_bytes(bytes(2806925))
    with pytest.raises(DataError, match="expected SHA-256 635e"):
        shifts.outside("cifar10")


def test_uniform_noise_fills_the_range():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3)) * [1, 10, 0]
    new = shifts.uniform_noise(x, key=KEY)
    low, high = x.min(axis=0), x.max(axis=0)
    assert (new >= low).all()
    assert (new <= high).all()
    for j in range(2):
        u = (new[:, j] - low[j]) / (high[j] - low[j])
        assert stats.kstest(u, "uniform").pvalue > 1e-4
    codes = shifts.uniform_noise(
        np.full((10, 4, 4), [[0], [1], [2], [255]], np.uint8), key=KEY
    )
    assert codes.dtype == np.uint8
    images = shifts.uniform_noise(photos(2), key=KEY)
    assert images.dtype == np.float32
    assert images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(new, shifts.uniform_noise(x, key=KEY))


def test_permuted_features_keep_values_and_lose_dependence():
    rng = np.random.default_rng(0)
    first = rng.normal(size=2000)
    x = np.column_stack([first, first, rng.integers(0, 3, 2000)])
    new = shifts.permuted_features(x, key=KEY)
    np.testing.assert_array_equal(np.sort(new, axis=0), np.sort(x, axis=0))
    # correlation of independent columns: normal with deviation 1 / sqrt(n)
    assert abs(np.corrcoef(new[:, 0], new[:, 1])[0, 1]) < 4 / math.sqrt(2000)
    images = photos(4)
    mixed = shifts.permuted_features(images, key=KEY)
    np.testing.assert_array_equal(np.sort(mixed, axis=0), np.sort(images, axis=0))


@pytest.mark.parametrize("synthetic", [shifts.uniform_noise, shifts.permuted_features])
def test_synthetic_sets_refuse_what_is_empty(synthetic):
    for x in (np.zeros((0, 3)), np.array(1.0), np.array(["a"])):
        with pytest.raises(DataError, match="expected numbers of shape"):
            synthetic(x, key=KEY)
