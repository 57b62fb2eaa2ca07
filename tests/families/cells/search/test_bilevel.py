"""The alternating search, step by step and as a whole."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_search import Doubles, assert_same_state, build, labelled, search, seeded

from supernetnas.families.cells.search.bilevel import BilevelSearch
from supernetnas.families.cells.search.perturbation import random_perturbation
from supernetnas.families.cells.search.weight_training import SearchSettings
from supernetnas.images.augmentation import ImageTensors
from supernetnas.search.stopping import Plateau
from supernetnas.training.batches import LabelledImages, balanced_batches
from supernetnas.training.checkpoints import load_checkpoint, save_checkpoint
from supernetnas.training.clock import Stopwatch


class TestAgainstAPlainLoop:
    @pytest.mark.parametrize("perturbation", ["none", "random"])
    def test_an_epoch(self, perturbation):
        """Alternate Adam on the alphas and clipped SGD on the weights, written with torch.optim.

        On the plain definition, in double precision. Per batch: a step of the alphas on validation
        images with unperturbed weights, then a step of the weights on training images.
        """
        supernet = build().double()
        reference = copy.deepcopy(supernet)
        reference.fused = False
        train, validation = labelled(18, Doubles), labelled(12, Doubles, seed=2)
        class_weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        settings = SearchSettings(
            epochs=3,
            batch_size=6,
            learning_rate=0.5,
            final_learning_rate=0.1,
            warmup=0.0,
            clip_norm=0.7,
            alpha_learning_rate=0.02,
            perturbation=perturbation,
            label_smoothing=0.1,
        )

        class Weighted(BilevelSearch):
            def _loss(self, scores, labels):
                # The search's losses are single precision; these scores stay double.
                return loss_of(scores, labels)

        def loss_of(scores, labels):
            log_p = scores.log_softmax(1)
            of_label = -log_p[torch.arange(len(labels)), labels] * class_weight[labels]
            smooth = -(log_p * class_weight).sum(1) / 3
            return (0.9 * of_label + 0.1 * smooth).sum() / class_weight[labels].sum()

        searched = Weighted(supernet, train, validation, settings, seeded(), class_weight)
        searched.run_epoch()

        generator = seeded()
        torch.randint(2**31 - 1, (), generator=generator)  # the seed of the noise
        alphas = [reference.alphas_normal, reference.alphas_reduce]
        weights = [p for p in reference.parameters() if all(p is not a for a in alphas)]
        adam = torch.optim.Adam(alphas, lr=0.02, betas=(0.5, 0.999), weight_decay=1e-3)
        sgd = torch.optim.SGD(weights, lr=0.5, momentum=0.9, weight_decay=3e-4)
        batches, validation_batches = balanced_batches(18, 6, generator), iter(())
        clipped = []
        for step, index in enumerate(batches):
            chosen = next(validation_batches, None)
            if chosen is None:
                validation_batches = iter(balanced_batches(12, 6, generator))
                chosen = next(validation_batches)
            images = validation.images.augmented(chosen, generator)
            adam.zero_grad()
            loss_of(reference(images), validation.labels[chosen]).backward()
            adam.step()
            images = train.images.augmented(index, generator)
            operation_weights = tuple(alpha.detach().softmax(1) for alpha in alphas)
            if perturbation == "random":
                masks = reference.operation_masks()
                operation_weights = random_perturbation(operation_weights, masks, 0.03, generator)
            sgd.zero_grad()
            loss_of(reference(images, operation_weights), train.labels[index]).backward()
            clipped.append(float(torch.nn.utils.clip_grad_norm_(weights, 0.7)) > 0.7)
            sgd.param_groups[0]["lr"] = 0.1 + 0.2 * (1 + math.cos(math.pi * step / 9))
            sgd.step()
        assert any(clipped)
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(
                supernet.state_dict()[name], value, rtol=1e-7, atol=1e-9, msg=name
            )

    def test_the_loss_is_torchs_cross_entropy(self):
        scores, labels = torch.randn(6, 3, generator=seeded()), torch.arange(6) % 3
        weight = torch.tensor([0.5, 1.0, 2.0])
        one = search(class_weight=weight, label_smoothing=0.2)
        expected = F.cross_entropy(scores, labels, weight=weight, label_smoothing=0.2)
        assert torch.equal(one._loss(scores, labels), expected)


class TestSteps:
    def test_the_alpha_step_is_never_perturbed_and_the_weight_step_always_is(self):
        seen = []
        supernet = build()
        supernet.register_forward_pre_hook(
            lambda module, inputs: seen.append(
                (module.operation_weights(), inputs[1] if len(inputs) > 1 else None)
            )
        )
        search(supernet, perturbation_radius=(0.2, 0.2)).run_epoch()
        alpha_steps, weight_steps = seen[0:4:2], seen[1:4:2]
        assert all(given is None for _, given in alpha_steps)
        for clean, given in weight_steps:
            assert all((a - b).abs().max() > 0.02 for a, b in zip(clean, given, strict=True))
        assert all(given is None for _, given in seen[4:])  # the validation

    def test_alphas_move_in_alpha_steps_only(self):
        one = search(alpha_learning_rate=0.0)
        before = [alpha.clone() for alpha in one.supernet.alpha_parameters()]
        weights = [weight.clone() for weight in one.supernet.weight_parameters()]
        one.run_epoch()
        for old, new in zip(before, one.supernet.alpha_parameters(), strict=True):
            assert torch.equal(old, new)
        assert any(
            not torch.equal(old, new)
            for old, new in zip(weights, one.supernet.weight_parameters(), strict=True)
        )

    def test_weights_move_in_weight_steps_only(self):
        one = search(learning_rate=0.0, final_learning_rate=0.0)
        before = [weight.clone() for weight in one.supernet.weight_parameters()]
        alphas = [alpha.clone() for alpha in one.supernet.alpha_parameters()]
        one.run_epoch()
        for old, new in zip(before, one.supernet.weight_parameters(), strict=True):
            assert torch.equal(old, new)
        for old, new in zip(alphas, one.supernet.alpha_parameters(), strict=True):
            assert not torch.equal(old, new)

    @pytest.mark.parametrize("perturbation", ["none", "random", "adversarial"])
    def test_no_gradient_is_left_behind(self, perturbation):
        one = search(perturbation=perturbation)
        one.run_epoch()
        assert all(parameter.grad is None for parameter in one.supernet.parameters())

    def test_learning_rates(self):
        """Per step: up from a tenth, then the cosine over what is left."""
        one, rates = search(warmup=0.25, learning_rate=0.4, final_learning_rate=0.2), []
        step = one.weight_optimizer.step
        one.weight_optimizer.step = lambda: (
            rates.append(one.weight_optimizer.param_groups[0]["lr"]) or step()
        )
        one.run()
        expected = [0.04] + [0.3 + 0.1 * math.cos(math.pi * k / 3) for k in range(3)]
        assert rates == pytest.approx(expected)

    @pytest.mark.parametrize(("every", "expected"), [(1, 4), (2, 2), (3, 2), (5, 1)])
    def test_weight_steps_per_alpha_step(self, every, expected):
        one = search(weight_steps_per_alpha_step=every)
        one.run()
        assert one.alpha_optimizer.state[one.supernet.alphas_normal]["step"] == expected

    @pytest.mark.parametrize("perturbation", ["random", "adversarial"])
    @pytest.mark.parametrize("n_cells", [1, 2])
    def test_supernets_without_a_normal_cell(self, n_cells, perturbation):
        one = search(build(cells=n_cells), perturbation=perturbation, epochs=1)
        unused, used = (alpha.clone() for alpha in one.supernet.alpha_parameters())
        one.run()
        assert torch.equal(one.supernet.alphas_normal, unused)
        assert not torch.equal(one.supernet.alphas_reduce, used)

    def test_unequal_edges_and_none(self):
        one = search(space="s3", perturbation="adversarial", epochs=1)
        assert len(one.run()) == 1


class TestReproducibility:
    @pytest.mark.parametrize("perturbation", ["random", "adversarial"])
    def test_the_same_seed_gives_the_same_search(self, perturbation):
        first, again, other = (
            search(seed=seed, perturbation=perturbation, epochs=1) for seed in (0, 0, 1)
        )
        for one in (first, again, other):
            one.run()
            torch.rand(3)
        assert_same_state(first, again)
        assert not torch.equal(first.supernet.alphas_normal, other.supernet.alphas_normal)

    @pytest.mark.parametrize("space", ["s1", "s4"])
    def test_global_random_states_stay(self, space):
        state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        search(space=space).run()
        assert torch.equal(torch.get_rng_state(), state)
        after = np.random.get_state()  # noqa: NPY002
        assert all(np.array_equal(a, b) for a, b in zip(numpy_state, after, strict=True))

    @pytest.mark.parametrize(
        ("space", "layout"), [("s1", torch.channels_last), ("s4", torch.contiguous_format)]
    )
    def test_a_resumed_search_equals_an_uninterrupted_one(self, space, layout, tmp_path):
        def start(seed):
            net = build(space, seed=seed).to(memory_format=layout)
            return search(net, seed=seed, epochs=3, stopping=Plateau(20))

        whole, first = start(0), start(0)
        whole.run()
        first.run(on_epoch=lambda one: one.epoch == 1)
        save_checkpoint(tmp_path / "checkpoint", *first.state())
        second = start(7)
        second.load_state(*load_checkpoint(tmp_path / "checkpoint"))
        assert second.epoch == 1
        second.run()
        assert_same_state(whole, second)
        assert second.stopping == whole.stopping


class TestEnd:
    def test_plateau(self):
        plateau = Plateau(patience=2, min_delta=0.1)
        assert [plateau.add(s) for s in (0.5, 0.65, 0.7, 0.76, 0.8, 0.8)] == [
            *(False, False, False, False, False, True)
        ]
        assert plateau.best == 0.76

    def test_no_patience_never_stops(self):
        plateau = Plateau(patience=None)
        assert not any(plateau.add(0.5) for _ in range(100))

    def test_the_search_stops_on_its_plateau(self):
        one = search(epochs=9, stopping=Plateau(2))
        one.run_epoch = lambda: one.history.append({"validation_accuracy": 0.5})
        calls = []
        one.run(on_epoch=lambda one: calls.append(1))
        assert len(calls) == 3

    def test_the_search_stops_when_time_is_up(self):
        assert len(search(epochs=9).run(stopwatch=Stopwatch(-1.0))) == 1

    def test_divergence_is_an_error(self):
        one = search(learning_rate=1e25, final_learning_rate=1e25, warmup=0.0, clip_norm=1e30)
        message = r"diverged in epoch \d: .*Lower the search's learning_rate \(1e\+25\)"
        with pytest.raises(FloatingPointError, match=message):
            one.run()
        assert len(one.history) == one.epoch

    @pytest.mark.parametrize("size", [1e25, 1e38])
    def test_the_divergence_of_the_alphas_is_told_from_that_of_the_weights(self, size):
        one = search(alpha_learning_rate=size)
        with pytest.raises(
            FloatingPointError, match=r"Lower the search's alpha_learning_rate \(1e\+\d\d\)"
        ):
            one.run()

    def test_history(self):
        rows = search().run()
        assert [row["epoch"] for row in rows] == [1, 2]
        for row in rows:
            assert row["stage"] == "search"
            assert 0 <= row["validation_accuracy"] <= 1
            assert 0 <= row["alpha_entropy"] <= 1
            assert row["train_loss"] > 0
            assert row["seconds"] > 0
        assert rows[-1]["skip_connections"] <= 16


@pytest.mark.parametrize(
    "perturbation", ["none", "random", pytest.param("adversarial", marks=pytest.mark.slow)]
)
def test_it_learns(perturbation):
    """Horizontal against vertical bars at random places, of two classes."""
    parts = []
    for seed, n in ((0, 48), (1, 48)):
        generator = seeded(seed)
        labels, places = torch.arange(n) % 2, torch.randint(8, (n,), generator=generator)
        pixels = 0.1 * torch.randn(n, 3, 8, 8, generator=generator)
        for image, label, place in zip(pixels, labels, places, strict=True):
            image[(slice(None), place) if label else (slice(None), slice(None), place)] += 1.0
        parts.append(LabelledImages(ImageTensors(pixels, torch.zeros(3), torch.ones(3)), labels))
    settings = SearchSettings(
        epochs=8, batch_size=8, learning_rate=0.1, alpha_learning_rate=0.01,
        perturbation=perturbation,
    )  # fmt: skip
    one = BilevelSearch(build("s2", classes=2), *parts, settings, seeded())
    rows = one.run(on_epoch=lambda one: one.history[-1]["validation_accuracy"] == 1.0)
    assert rows[-1]["validation_accuracy"] > 0.85
