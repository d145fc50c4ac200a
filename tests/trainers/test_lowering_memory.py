"""Loops, layouts, stored weights and the workspace: by hand, then for all networks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import FAMILIES, family
from torch import nn

from trainers.bounds.trace import trace
from trainers.errors import UnsupportedLayer
from trainers.lowering import simplify
from trainers.lowering.fusion import Fused, Fusion
from trainers.lowering.layout import Layout, layout_for, tap_offsets
from trainers.lowering.memory import memory_plan
from trainers.lowering.storage import stored_weights


class TestLayout:
    def test_columns_that_a_stride_skips_lie_in_another_plane(self):
        layout = Layout((1, 2, 3), strides=(1, 2), border=(1, 1), extent=(3, 4))
        # With its border:  0 0 0 0    The even columns, then the odd ones:
        #                   0 a b c    0 0   0 b   0 e    0 0   a c   d f
        #                   0 d e f
        assert layout.plane == (3, 2)
        assert layout.size == 12
        assert [layout.offset(0, 1, column) for column in (1, 2, 3)] == [8, 3, 9]
        assert [layout.offset(0, 2, column) for column in (1, 2, 3)] == [10, 5, 11]

    def test_plain_is_row_major(self):
        layout = Layout.plain((2, 3, 4))
        assert [layout.offset(c, y, x) for c, y, x in np.ndindex(2, 3, 4)] == list(range(24))
        assert not layout.has_gaps

    def test_a_joined_layout_has_room_for_both_borders(self):
        narrow = layout_for(nn.Conv2d(1, 1, 1, 2), (1, 5, 5))
        wide = layout_for(nn.Conv2d(1, 1, 3, 2, 1), (1, 5, 5))
        joined = narrow.joined(wide)
        assert joined.border == (1, 1)
        assert joined.extent == wide.joined(narrow).extent == (7, 7)

    @given(data=st.data())
    @settings(max_examples=60, deadline=None)
    def test_a_convolution_is_a_sum_of_shifted_runs(self, data):
        def pair(low, high):
            return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

        kernel, stride, padding, dilation = pair(1, 3), pair(1, 3), pair(0, 2), pair(1, 2)
        shape = (2, *pair(5, 9))
        conv = nn.Conv2d(2, 1, kernel, stride, padding, dilation).double()
        layout = layout_for(conv, shape)
        x_CHW = np.random.default_rng(0).random(shape)
        memory = np.zeros(2 * layout.size)
        for c, y, x in np.ndindex(*shape):
            memory[layout.offset(c, y + layout.border[0], x + layout.border[1])] = x_CHW[c, y, x]
        expected = conv(torch.from_numpy(x_CHW)).detach().numpy()[0]
        run = np.full(layout.size, conv.bias.item())
        for weight, offset in zip(
            conv.weight.flatten().tolist(), tap_offsets(conv, layout), strict=True
        ):
            run += weight * memory[offset : offset + layout.size]
        height, width = expected.shape
        rows = [run[i * layout.plane[1] :][:width] for i in range(height)]
        np.testing.assert_allclose(rows, expected, atol=1e-12)


class TestStoredWeights:
    def stored(self, rows):
        weight = torch.tensor(rows, dtype=torch.float32)
        layer = nn.Linear(weight.shape[1], len(weight), bias=False)
        layer.weight.data = weight
        return stored_weights(layer, Layout.plain((weight.shape[1], 1, 1)), "layer")

    def test_rows_without_their_zeros(self):
        stored = self.stored([[0, 0, 0, 7], [0, 0, 0, 0], [0, 5, 0, 6]])
        assert stored.values.tolist() == [7, 5, 6]
        assert stored.offsets.tolist() == [3, 1, 3]
        assert stored.counts.tolist() == [1, 0, 2]
        assert stored.num_bytes == 3 * 4 + 3 + 3

    def test_dense_when_that_takes_fewer_bytes(self):
        stored = self.stored([[1, 2, 0, 3], [4, 5, 6, 7]])
        assert stored.offsets is None and stored.counts is None
        assert stored.values.tolist() == [1, 2, 0, 3, 4, 5, 6, 7]
        assert stored.num_bytes == 32  # sparse: 7 * 5 + 2

    def test_a_layer_of_zeros_takes_nothing(self):
        assert self.stored([[0.0, -0.0]]).num_bytes == 0

    @pytest.mark.parametrize(("inputs", "kind"), [(256, "uint8"), (257, "uint16")])
    def test_offsets_are_as_narrow_as_they_can_be(self, inputs, kind):
        stored = self.stored([[0.0] * (inputs - 1) + [1.0]])
        assert stored.offsets.dtype == kind

    def test_a_dense_convolution_stores_the_offsets_of_one_row(self):
        conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        stored = stored_weights(conv, layout_for(conv, (4, 5, 5)), "conv")
        assert stored.values.size == 6 * 2 * 9
        assert stored.offsets.size == 2 * 9
        assert stored.num_bytes == 4 * 108 + 18 + 4 * 6


class TestFusion:
    def loops(self, model, shape):
        return Fusion(trace(model), shape).loops

    def test_relu_and_flatten_belong_to_the_layer_before_them(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        assert self.loops(model, (1, 4, 4)) == [Fused(1, (2, 3), (), 3), Fused(4, (), (), 4)]

    def test_a_sum_belongs_to_the_last_layer_in_it(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))

            def forward(self, x):
                left, right = self.a(x), self.b(x)
                return self.c((left + right).relu())

        assert self.loops(Block(), (3,)) == [
            Fused(1, (), (), 1), Fused(2, (3, 4), (1,), 4), Fused(5, (), (), 5),
        ]  # fmt: skip

    def test_steps_that_nothing_depends_on_are_left_out(self):
        class Idle(nn.Module):
            def __init__(self):
                super().__init__()
                self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

            def forward(self, x):
                self.idle(x)
                return self.used(x)

        assert self.loops(Idle(), (2,)) == [Fused(2, (), (), 2)]

    def test_a_network_without_layers_is_refused(self):
        with pytest.raises(UnsupportedLayer, match="without layers"):
            self.loops(nn.Identity(), (2,))


class TestWorkspace:
    def test_two_hidden_layers_share_it_and_the_third_reuses_it(self):
        layers = (nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 7), nn.Linear(7, 3))
        plan = memory_plan(trace(nn.Sequential(*layers)), (5,))
        assert [loop.writes.offset for loop in plan.loops[:3]] == [0, 8, 0]
        assert plan.workspace == 8 + 6
        assert plan.ram_bytes == 4 * 14
        assert plan.flash_bytes == 4 * (40 + 8 + 48 + 6 + 42 + 7 + 21 + 3)

    def test_a_residual_sum_is_written_over_the_branch_that_ends(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.c = (nn.Conv2d(2, 2, 3, 1, 1) for _ in range(3))

            def forward(self, x):
                x = self.a(x).relu()
                return (self.c(self.b(x).relu()) + x).relu().flatten(1)

        plan = memory_plan(trace(nn.Sequential(Block())), (2, 4, 4))
        sizes = {loop.writes.layout.size for loop in plan.loops[:-1]}
        assert sizes == {2 * 6 * 6}  # each in a border
        assert plan.workspace < 3 * 2 * 6 * 6

    def test_a_network_without_hidden_values_has_one_float(self):
        assert memory_plan(trace(nn.Linear(2, 1)), (2,)).workspace == 1

    @pytest.mark.parametrize("name", FAMILIES)
    def test_nothing_is_overwritten_before_it_has_been_read(self, name):
        model, x = family(name)
        check_memory(memory_plan(simplify(model, x.shape[1:]), x.shape[1:]))

    def test_the_plan_depends_on_the_network_alone(self):
        model, x = family("shortcut")
        first, second = (memory_plan(simplify(model, x.shape[1:]), x.shape[1:]) for _ in range(2))
        assert [loop.writes for loop in first.loops] == [loop.writes for loop in second.loops]


def check_memory(plan):
    """Run the plan on memory that knows which value each number belongs to."""
    owner = np.full(plan.workspace, -1)

    def part(place):
        start = place.offset if place.memory == "workspace" else plan.workspace
        assert place.memory != "workspace" or start + place.layout.size <= plan.workspace
        return slice(start, start + place.layout.size)  # empty for what is the caller's

    for loop in plan.loops:
        kernel, written = loop.draft.fused.kernel, part(loop.writes)
        if loop.line is not None:
            owner[loop.line : loop.line + loop.draft.run.length] = -1
        if kernel is not None:
            (value,) = plan.fusion.inputs(kernel)
            assert (owner[part(loop.reads)] == value).all()
            owner[written] = -1 if loop.draft.sums_first else owner[written]
        for value, place in loop.operands.items():
            assert (owner[part(place)] == value).all()
        owner[written] = loop.draft.fused.result
        if loop.line is not None:
            owner[loop.line : loop.line + loop.draft.run.length] = -1
        if kernel is not None:
            (value,) = plan.fusion.inputs(kernel)
            assert (owner[part(loop.reads)] == value).all()
