"""`load_data`: what packaged data and a person's own arrays become, and what is refused."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spaces.data import (
    AugmentConfig,
    NpzDataConfig,
    PackagedDataConfig,
    PythonDataConfig,
)
from trainers.data import Data, load_data
from trainers.data.base import Scaling
from trainers.errors import DataError

Y = np.arange(20) % 2


def save(tmp_path, x, y=Y, **changes) -> Data:
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=y)
    return load_data(NpzDataConfig(name="npz", path=str(path), **changes), "cpu")


def whole(data: Data) -> torch.Tensor:
    return torch.cat([data.train.x, data.validation.x, data.test.x])


class TestPackaged:
    def test_digits(self):
        data = load_data(PackagedDataConfig(name="digits"), "cpu")
        assert data.input_shape == (1, 8, 8)
        assert data.num_classes == 10
        assert data.class_names == tuple("0123456789")
        assert [len(s) for s in (data.train, data.validation, data.test)] == [1079, 359, 359]
        x = whole(data)
        assert x.dtype == torch.float32 and data.train.y.dtype == torch.int64
        assert (x.min(), x.max()) == (0.0, 1.0)
        assert torch.equal(x * 16, (x * 16).round())
        torch.testing.assert_close(data.mean, data.train.x.mean((0, 2, 3)))
        torch.testing.assert_close(data.std, data.train.x.std((0, 2, 3), correction=0))

    def test_breast_cancer_is_scaled_by_the_training_split(self):
        data = load_data(PackagedDataConfig(name="breast_cancer"), "cpu")
        assert data.input_shape == (30,)
        assert data.class_names == ("malignant", "benign")
        assert torch.equal(data.train.x.min(0).values, torch.zeros(30))
        assert torch.equal(data.train.x.max(0).values, torch.ones(30))
        assert data.test.x.min() >= 0 and data.test.x.max() <= 1
        assert not torch.equal(data.test.x.max(0).values, torch.ones(30))
        assert len(data.scaling.low) == 30 and data.mean.shape == (30,)

    @pytest.mark.slow
    def test_mnist5k_is_not_left_sorted_by_class(self):
        data = load_data(PackagedDataConfig(name="mnist5k"), "cpu")
        assert data.input_shape == (1, 28, 28)
        assert [len(s) for s in (data.train, data.validation, data.test)] == [3000, 1000, 1000]
        assert torch.bincount(data.train.y).tolist() == [300] * 10
        assert len(set(data.validation.y[:100].tolist())) == 10
        assert whole(data).max() == 1.0


class TestSplits:
    def test_only_the_split_seed_changes_them(self):
        one = load_data(PackagedDataConfig(name="digits"), "cpu")
        other = load_data(PackagedDataConfig(name="digits", split_seed=1), "cpu")
        assert one.fingerprints != other.fingerprints
        assert len(set(one.fingerprints.values())) == 3

    def test_the_same_config_is_loaded_once_whatever_the_augmentation(self):
        one = load_data(PackagedDataConfig(name="digits"), "cpu")
        augmented = PackagedDataConfig(name="digits", augment=AugmentConfig(shift=1))
        assert load_data(augmented, torch.device("cpu")) is one

    @pytest.mark.slow
    def test_a_new_process_makes_the_same_splits(self):
        code = (
            "from spaces.data import PackagedDataConfig as C\n"
            "from trainers.data import load_data\n"
            "print(load_data(C(name='digits'), 'cpu').fingerprints)"
        )
        root = Path(__file__).resolve().parents[2]
        env = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
        printed = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        here = load_data(PackagedDataConfig(name="digits"), "cpu").fingerprints
        assert printed.strip() == str(here)

    def test_a_fingerprint_is_the_hash_of_dtype_shape_and_bytes(self, tmp_path):
        split = save(tmp_path, np.linspace(0, 1, 40).reshape(20, 2)).train
        digest = hashlib.sha256()
        for array in (split.x.numpy(), split.y.numpy()):
            digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
        assert split.fingerprint == digest.hexdigest()

    def test_test_values_do_not_enter_any_statistic(self, tmp_path):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(20, 3)) * 5
        before = save(tmp_path, x, split_seed=2)
        # Find the test rows through their values, change them, and load again.
        is_test = [
            (np.isclose(before.scaling.apply(row), before.test.x.numpy()).all(1)).any() for row in x
        ]
        assert sum(is_test) == 4
        x[is_test] *= 100
        after = save(tmp_path, x, split_seed=2, validation_fraction=0.2000001)
        assert torch.equal(before.mean, after.mean) and torch.equal(before.std, after.std)
        assert before.scaling == after.scaling
        assert not torch.equal(before.test.x, after.test.x)

    def test_every_split_must_have_every_class(self, tmp_path):
        y = np.array(["cat"] * 18 + ["dog"] * 2)
        with pytest.raises(DataError, match="class 'dog' has 2 examples in all and none.*split"):
            save(tmp_path, np.zeros((20, 2)), y)


class TestValues:
    def test_uint8_is_divided_by_255(self, tmp_path):
        x = np.full((20, 5, 6), 51, np.uint8)
        data = save(tmp_path, x)
        assert data.input_shape == (1, 5, 6)
        assert whole(data).unique().tolist() == [pytest.approx(0.2)]
        assert data.scaling == Scaling((0.0,), (255.0,))

    def test_values_in_0_1_stay_as_they_are(self, tmp_path):
        x = np.random.default_rng(0).random((20, 3, 4, 4), np.float32) * 0.5
        assert set(whole(save(tmp_path, x)).flatten().tolist()) == set(x.flatten().tolist())

    def test_a_declared_range_is_scaled_to_0_1(self, tmp_path):
        x = np.tile([-1.0, 0.0, 1.0], (20, 1))
        data = save(tmp_path, x, value_range=(-1.0, 1.0))
        assert torch.equal(data.test.x[0], torch.tensor([0.0, 0.5, 1.0]))

    def test_images_outside_0_1_without_a_range_are_refused(self, tmp_path):
        x = np.zeros((20, 4, 4))
        x[3] = 255.0
        with pytest.raises(DataError, match="from 0 to 255.*value_range"):
            save(tmp_path, x)

    def test_values_outside_the_declared_range_are_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"from 2 to 2, outside value_range \[0, 1\]"):
            save(tmp_path, np.full((20, 3), 2.0), value_range=(0.0, 1.0))

    def test_a_range_upside_down_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"value_range is \[1, 0\]"):
            save(tmp_path, np.full((20, 3), 0.5), value_range=(1.0, 0.0))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_refused_by_index(self, tmp_path, bad):
        x = np.zeros((20, 3, 4, 4))
        x[7, 1, 2, 3] = bad
        with pytest.raises(DataError, match=rf"x\[7, 1, 2, 3\] is {bad}"):
            save(tmp_path, x)

    def test_a_constant_feature_becomes_0_and_its_std_the_floor(self, tmp_path):
        x = np.stack([np.full(20, 7.0), np.arange(20.0)], axis=1)
        data = save(tmp_path, x)
        assert torch.equal(whole(data)[:, 0], torch.zeros(20))
        assert data.mean[0] == 0 and data.std[0] == pytest.approx(0.05)
        assert torch.isfinite(data.std).all()

    def test_scaling_clips(self):
        scaling = Scaling((0.0, 10.0), (1.0, 20.0))
        assert scaling.apply(np.array([[2.0, 15.0], [-1.0, 5.0]])).tolist() == [[1, 0.5], [0, 0]]


class TestShapes:
    @pytest.mark.parametrize(
        ("given_shape", "input_shape"),
        [
            ((20, 7), (7,)),
            ((20, 8, 9), (1, 8, 9)),
            ((20, 1, 8, 9), (1, 8, 9)),
            ((20, 3, 8, 9), (3, 8, 9)),
            ((20, 8, 9, 3), (3, 8, 9)),
            ((20, 8, 9, 1), (1, 8, 9)),
        ],
    )
    def test_accepted(self, tmp_path, given_shape, input_shape):
        assert save(tmp_path, np.zeros(given_shape, np.uint8)).input_shape == input_shape

    def test_a_last_channel_axis_is_moved_not_reshaped(self, tmp_path):
        x = np.zeros((20, 4, 5, 3), np.uint8)
        x[..., 1] = 255
        assert torch.equal(save(tmp_path, x).train.x[:, 1], torch.ones(12, 4, 5))

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((20, 3, 8, 3), "could both be the channels"),
            ((20, 5, 8, 8), "neither axis 1 nor the last"),
            ((20,), "must be N x F"),
            ((20, 1, 1, 4, 4), "must be N x F"),
            ((0, 3), "holds no values"),
        ],
    )
    def test_refused(self, tmp_path, shape, message):
        with pytest.raises(DataError, match=message):
            save(tmp_path, np.zeros(shape), Y[: shape[0]])

    def test_text_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="dtype <U1"):
            save(tmp_path, np.full((20, 2), "a"))


class TestLabels:
    def test_gaps_are_closed_and_names_kept(self, tmp_path):
        data = save(tmp_path, np.zeros((20, 2)), np.where(Y, 40, -3))
        assert data.class_names == ("-3", "40") and data.num_classes == 2
        assert set(data.train.y.tolist()) == {0, 1}

    def test_text_is_sorted(self, tmp_path):
        data = save(tmp_path, Y[:, None] * 0.5, np.where(Y, "ant", "bee"))
        assert data.class_names == ("ant", "bee")
        assert torch.equal(data.train.y, (data.train.x[:, 0] == 0).long())

    def test_whole_floats_are_numbers(self, tmp_path):
        assert save(tmp_path, np.zeros((20, 2)), Y * 1.0).class_names == ("0", "1")

    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (np.zeros(20, int), "only the label '0'.*at least two"),
            (Y[:19], r"shape \(19,\), but there are 20 examples"),
            (np.eye(2)[Y], "not one-hot"),
            (Y + 0.5, "dtype float64"),
        ],
    )
    def test_refused(self, tmp_path, y, message):
        with pytest.raises(DataError, match=message):
            save(tmp_path, np.zeros((20, 2)), y)


class TestAugmentation:
    def test_is_refused_where_it_could_do_nothing(self):
        config = PackagedDataConfig(name="breast_cancer", augment=AugmentConfig(shift=1))
        with pytest.raises(DataError, match="30 features: remove augment"):
            load_data(config, "cpu")

    def test_is_refused_where_nothing_would_be_left(self):
        config = PackagedDataConfig(name="digits", augment=AugmentConfig(shift=8))
        with pytest.raises(DataError, match="shift is 8.*8 x 8.*less than 8"):
            load_data(config, "cpu")


class TestArchives:
    def load(self, path):
        return load_data(NpzDataConfig(name="npz", path=str(path)), "cpu")

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match="nowhere.npz is not a file"):
            self.load(tmp_path / "nowhere.npz")

    def test_not_an_archive(self, tmp_path):
        path = tmp_path / "a.npz"
        np.save(path.open("wb"), np.zeros(3))
        with pytest.raises(DataError, match="is not an npz archive"):
            self.load(path)

    def test_other_names(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros((20, 2)), labels=Y)
        with pytest.raises(DataError, match=r"no array 'y', only \['labels', 'x'\]"):
            self.load(tmp_path / "a.npz")

    def test_pickled_objects_are_never_opened(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.array([{}] * 20, object), y=Y)
        with pytest.raises(DataError, match="plain arrays.*allow_pickle=False"):
            self.load(tmp_path / "a.npz")


MODULE = """
import numpy as np, torch
def good(): return torch.rand(20, 4), np.arange(20) % 2
def alone(): return np.zeros((20, 4))
def broken(): return {}["key"]
def ragged(): return [[1], [1, 2]], [0, 1]
number = 3
"""


class TestFunctions:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "persons_data.py").write_text(MODULE)
        (tmp_path / "persons_broken.py").write_text("import no_such_package")
        monkeypatch.syspath_prepend(tmp_path)
        yield
        sys.modules.pop("persons_data", None)

    def load(self, path):
        return load_data(PythonDataConfig(python=path), "cpu")

    def test_arrays_or_tensors(self):
        assert self.load("persons_data:good").input_shape == (4,)

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("no.such.module:f", "importing module 'no.such.module' failed.*No module named 'no'"),
            ("persons_broken:f", "importing module 'persons_broken'.*'no_such_package'"),
            ("persons_data:absent", "module 'persons_data' has no 'absent'"),
            ("persons_data:number", "'number' is a int, not a function"),
            ("persons_data:broken", "'persons_data:broken' failed with KeyError: 'key'"),
            ("persons_data:alone", "returned a ndarray: it must return a pair"),
            ("persons_data:ragged", "no array"),
        ],
    )
    def test_errors_name_what_failed(self, path, message):
        with pytest.raises(DataError, match=message):
            self.load(path)
