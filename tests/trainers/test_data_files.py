"""Tables, image folders and torchvision's files, each read from small files of the real format."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets

from spaces.data import CsvDataConfig, ImageFolderDataConfig, TorchvisionDataConfig
from trainers.data import Data, load_data
from trainers.errors import DataError

RNG = np.random.default_rng(0)


class TestCsv:
    def load(self, tmp_path, text, label_column="kind") -> Data:
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        config = CsvDataConfig(name="csv", path=str(path), label_column=label_column)
        return load_data(config, "cpu")

    def rows(self, labels):
        return "a,kind,b\n" + "".join(
            f"{i},{labels[i % len(labels)]},{-2.5 * i}\n" for i in range(20)
        )

    def test_features_and_named_classes(self, tmp_path):
        data = self.load(tmp_path, self.rows(["yes", "no"]))
        assert data.input_shape == (2,)
        assert data.class_names == ("no", "yes")
        x = data.train.x
        assert torch.equal(x.min(0).values, torch.zeros(2))
        torch.testing.assert_close(x[:, 0], 1 - x[:, 1])

    def test_numbers_are_sorted_as_numbers(self, tmp_path):
        assert self.load(tmp_path, self.rows(["10", "9"])).class_names == ("9", "10")

    def test_a_byte_order_mark_is_no_part_of_the_header(self, tmp_path):
        text = "\ufeffkind,a\n" + "".join(f"{i % 2},{i}\n" for i in range(20))
        assert self.load(tmp_path, text).input_shape == (1,)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n1,2\n", r"label_column is 'kind'.*\['a', 'b'\]"),
            ("", "label_column is 'kind'"),
            ("kind\nx\n", "at least one other"),
            ("a,kind\n", "nothing else"),
            ("a,kind\n1,x\nhello,y\n", "line 3, column 'a' is 'hello': .* finite number"),
            ("a,kind\n1,x\nnan,y\n", "line 3, column 'a' is 'nan'"),
            ("a,kind\n1,x\n,y\n", "line 3, column 'a' is ''"),
            ("a,kind\n1,x\n2\n", "line 3 has 1 values, the header row 2"),
            ("a,kind\n1,\n", "line 2, column 'kind' is empty"),
        ],
    )
    def test_errors_name_line_and_column(self, tmp_path, text, message):
        with pytest.raises(DataError, match=message):
            self.load(tmp_path, text)

    def test_a_missing_file_is_named(self, tmp_path):
        config = CsvDataConfig(name="csv", path=str(tmp_path / "no.csv"), label_column="y")
        with pytest.raises(DataError, match="no.csv is not a file"):
            load_data(config, "cpu")


class TestImageFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            (tmp_path / name).mkdir()
            for i in range(10):
                Image.new("RGB", (10 + i, 12), colour).save(tmp_path / name / f"{i}.png")
        (tmp_path / "red" / ".hidden").write_text("not an image")
        (tmp_path / "notes.txt").write_text("beside the folders")
        return tmp_path

    def load(self, folder, **changes) -> Data:
        return load_data(
            ImageFolderDataConfig(name="image_folder", path=str(folder), **changes), "cpu"
        )

    def test_colour(self, folder):
        data = self.load(folder, size=8)
        assert data.input_shape == (3, 8, 8)
        assert data.class_names == ("blue", "red")
        blue = data.train.x[data.train.y == 0]
        assert torch.equal(blue.mean((0, 2, 3)), torch.tensor([0.0, 0.0, 1.0]))

    def test_grey_of_the_smallest_size(self, folder):
        assert self.load(folder, size=4, channels=1).input_shape == (1, 4, 4)

    def test_a_file_that_is_no_image_is_named(self, folder):
        (folder / "blue" / "broken.png").write_bytes(b"\x89PNG\r\n")
        with pytest.raises(DataError, match="broken.png cannot be read"):
            self.load(folder)

    def test_more_than_8_bits_are_refused_rather_than_cut_off(self, folder):
        Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(folder / "red" / "deep.png")
        with pytest.raises(DataError, match="deep.png has mode I;16"):
            self.load(folder)

    def test_empty_or_absent_folders_are_named(self, folder, tmp_path):
        with pytest.raises(DataError, match="elsewhere is not a folder"):
            self.load(tmp_path / "elsewhere")
        (folder / "green").mkdir()
        with pytest.raises(DataError, match="green is empty"):
            self.load(folder)
        with pytest.raises(DataError, match="no folders"):
            self.load(folder / "green")


def vision(name, folder, **changes) -> Data:
    return load_data(TorchvisionDataConfig(name=name, folder=str(folder), **changes), "cpu")


def idx(array) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


class TestIdx:
    @pytest.fixture(params=["", ".gz"])
    def suffix(self, request):
        return request.param

    def write(self, folder, suffix=""):
        folder.mkdir(parents=True)
        self.test_images = RNG.integers(0, 256, (20, 28, 28), np.uint8)
        contents = {
            "train-images-idx3-ubyte": RNG.integers(0, 256, (50, 28, 28), np.uint8),
            "train-labels-idx1-ubyte": (np.arange(50) % 10).astype(np.uint8),
            "t10k-images-idx3-ubyte": self.test_images,
            "t10k-labels-idx1-ubyte": (np.arange(20) % 10).astype(np.uint8),
        }
        for name, array in contents.items():
            content = gzip.compress(idx(array)) if suffix else idx(array)
            (folder / f"{name}{suffix}").write_bytes(content)

    def test_mnist_packed_or_not(self, tmp_path, suffix):
        self.write(tmp_path / "MNIST" / "raw", suffix)
        data = vision("mnist", tmp_path)
        assert data.input_shape == (1, 28, 28)
        assert [len(s) for s in (data.train, data.validation, data.test)] == [40, 10, 20]
        assert data.class_names == tuple("0123456789")
        # The test part is the set's own, in its own order.
        expected = torch.from_numpy(self.test_images[:, None] / np.float32(255))
        assert torch.equal(data.test.x, expected)
        assert data.test.y.tolist() == [i % 10 for i in range(20)]

    def test_it_reads_what_torchvision_reads(self, tmp_path):
        self.write(tmp_path / "MNIST" / "raw")
        theirs = datasets.MNIST(str(tmp_path), train=False)
        assert torch.equal(vision("mnist", tmp_path).test.y, theirs.targets)
        assert torch.equal((vision("mnist", tmp_path).test.x[:, 0] * 255).round(), theirs.data)

    def test_fashion_mnist(self, tmp_path):
        self.write(tmp_path / "FashionMNIST" / "raw")
        assert vision("fashion_mnist", tmp_path).class_names[9] == "Ankle boot"

    def test_a_missing_file_is_named_with_what_to_do(self, tmp_path):
        self.write(tmp_path / "MNIST" / "raw")
        (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(DataError, match="raw/t10k-labels-idx1-ubyte .*missing.*download: true"):
            vision("mnist", tmp_path)

    @pytest.mark.parametrize(
        "content", [b"", b"\x00\x00\x09\x01", idx(np.zeros((3, 2), np.uint8))[:-1], b"\0\0\x08\x03"]
    )
    def test_a_broken_file_is_named(self, tmp_path, content):
        self.write(tmp_path / "MNIST" / "raw")
        (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(DataError, match="train-images-idx3-ubyte .*fetch it again"):
            vision("mnist", tmp_path)

    def test_a_torn_gzip_file_is_named(self, tmp_path):
        self.write(tmp_path / "MNIST" / "raw", ".gz")
        path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(DataError, match="cannot be unpacked"):
            vision("mnist", tmp_path)

    def test_a_failed_download_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.MNIST, "mirrors", [(tmp_path / "mirror").as_uri() + "/"])
        with pytest.raises(DataError, match="fetching the files into .* failed.*network"):
            vision("mnist", tmp_path, download=True)


def published(monkeypatch, owner, files):
    """Make the small files' checksums the ones that torchvision expects."""
    for attribute, value in files.items():
        monkeypatch.setattr(owner, attribute, value)


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class TestCifar:
    def write(self, folder, dataset, monkeypatch, label_key, classes):
        folder.mkdir(parents=True)
        lists = {}
        for attribute in ("train_list", "test_list"):
            lists[attribute] = []
            for name, _ in getattr(dataset, attribute):
                images = RNG.integers(0, 256, (2 * classes, 3072), np.uint8)
                labels = [i % classes for i in range(2 * classes)]
                path = folder / name
                path.write_bytes(pickle.dumps({"data": images, label_key: labels}))
                lists[attribute].append([name, md5(path)])
        self.last_images = images
        meta = dict(dataset.meta)
        path = folder / meta["filename"]
        path.write_bytes(pickle.dumps({meta["key"]: [f"class {k}" for k in range(classes)]}))
        published(monkeypatch, dataset, {**lists, "meta": {**meta, "md5": md5(path)}})

    def test_cifar10(self, tmp_path, monkeypatch):
        folder = tmp_path / "cifar-10-batches-py"
        self.write(folder, datasets.CIFAR10, monkeypatch, "labels", 10)
        data = vision("cifar10", tmp_path)
        assert data.input_shape == (3, 32, 32)
        assert [len(s) for s in (data.train, data.validation, data.test)] == [80, 20, 20]
        assert data.class_names[3] == "class 3"
        expected = self.last_images.reshape(20, 3, 32, 32) / np.float32(255)
        assert torch.equal(data.test.x, torch.from_numpy(expected))
        assert data.mean.shape == (3,)

    def test_cifar100(self, tmp_path, monkeypatch):
        folder = tmp_path / "cifar-100-python"
        self.write(folder, datasets.CIFAR100, monkeypatch, "fine_labels", 100)
        data = vision("cifar100", tmp_path, validation_fraction=0.5)
        assert data.num_classes == 100

    def test_missing_and_altered_files_are_named_and_never_unpickled(self, tmp_path, monkeypatch):
        folder = tmp_path / "cifar-10-batches-py"
        self.write(folder, datasets.CIFAR10, monkeypatch, "labels", 10)
        (folder / "data_batch_2").write_bytes(pickle.dumps({"data": "something else"}))
        with pytest.raises(DataError, match="data_batch_2 does not have the published checksum"):
            vision("cifar10", tmp_path)
        (folder / "data_batch_2").unlink()
        with pytest.raises(DataError, match="data_batch_2 is missing.*download: true"):
            vision("cifar10", tmp_path)


class TestSvhn:
    def test_svhn(self, tmp_path, monkeypatch):
        splits = {}
        for split, (url, name, _) in datasets.SVHN.split_list.items():
            images = RNG.integers(0, 256, (32, 32, 3, 50), np.uint8)
            labels = (np.arange(50) % 10 + 1).astype(np.uint8)[:, None]  # the digit 0 is 10
            scipy.io.savemat(tmp_path / name, {"X": images, "y": labels})
            splits[split] = [url, name, md5(tmp_path / name)]
            if split == "test":
                test_images = images
        published(monkeypatch, datasets.SVHN, {"split_list": splits})
        data = vision("svhn", tmp_path)
        assert data.class_names == tuple("0123456789")
        assert data.test.y[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
        expected = test_images.transpose(3, 2, 0, 1) / np.float32(255)
        assert torch.equal(data.test.x, torch.from_numpy(expected))

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(DataError, match="train_32x32.mat is missing"):
            vision("svhn", tmp_path)
