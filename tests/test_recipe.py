"""Recipes: what is read, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastbert.errors import FastbertError, InputError
from fastbert.training.recipe import RECIPES, Recipe


def test_the_papers_figures_are_a_recipe() -> None:
    """Appendix A.2: 256 sequences of 512 tokens, 1,000,000 steps, 90 % of them at length 128."""
    recipe = Recipe.load("base")
    first, second = recipe.phases
    assert recipe.steps == 1_000_000
    assert (first.steps, first.max_length, first.batch_tokens * first.batches_per_step) == (900_000, 128, 256 * 128)
    assert (second.steps, second.max_length, second.batch_tokens * second.batches_per_step) == (100_000, 512, 256 * 512)
    assert (recipe.optimizer.lr, recipe.optimizer.betas, recipe.optimizer.weight_decay) == (1e-4, (0.9, 0.999), 0.01)
    assert recipe.schedule.warmup_steps == 10_000
    assert (recipe.masking.probability, recipe.masking.mask, recipe.masking.random) == (0.15, 0.8, 0.1)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_package_loads_and_survives_json(path: Path) -> None:
    recipe = Recipe.load(path)
    assert Recipe.load(path.stem) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_single_values_are_overridden() -> None:
    recipe = Recipe.load("minute").override(
        "optimizer.lr=0.5", "phases.0.steps=200", "data.objective=mlm", "model.config.hidden_size=64"
    )
    assert (recipe.optimizer.lr, recipe.phases[0].steps, recipe.data.objective) == (0.5, 200, "mlm")
    assert recipe.model.config["hidden_size"] == 64


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("optimiser.lr=1", "there is no key optimiser; did you mean optimizer?"),
        ("optimizer.rate=1", "there is no key optimizer.rate; known are name, lr"),
        ("optimizer.lr_=1", "did you mean lr?"),
        ("optimizer.lr=fast", "optimizer.lr = 'fast' must be a value of type float"),
        ("phases.0.step=1", r"there is no key phases.0.step; did you mean steps\?"),
        ("phases.3.steps=1", "phases has the entries 0 to 0"),
        ("phases.steps=1", "phases.steps names a list"),
        ("run.seed=true", "run.seed = True must be a value of type int"),
        ("run.seed", "'run.seed' is not KEY=VALUE"),
        ("run.seed.x=1", "run.seed is a single value"),
        ("run.precision=int8", "run.precision = 'int8' is not one of"),
        ("optimizer.name=sgd", "optimizer.name = 'sgd' is not one of"),
        ("schedule.name=cosine", "schedule.name = 'cosine' is not one of"),
        ("schedule.warmup_steps=999999", "schedule.warmup_steps = 999999 is not within the"),
        ("model.size=huge", "model.size = 'huge' is not one of"),
        ("model.config.hiden_size=3", "there is no key model.config.hiden_size; did you mean hidden_size"),
        ("data.objective=nsp", "objective = 'nsp' is not one of"),
        ("masking.mask=0.9", "must be shares that sum to 1"),
        ("phases.0.steps=0", "phases.0.steps = 0 must be at least 1"),
        ("optimizer.betas=[0.9]", "must be two numbers"),
        ("run.workers=-1", "run.workers = -1 must be at least 0"),
        ("run.keep=0", "run.keep = 0 must be at least 1"),
    ],
)
def test_wrong_values_are_one_sentence(change: str, text: str) -> None:
    with pytest.raises(FastbertError, match=text):
        Recipe.load("minute").override(change)


def test_files_that_are_no_recipe_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no recipe second: give a \.toml file or one of base, minute"):
        Recipe.load("second")
    path = tmp_path / "a.toml"
    path.write_text("[run\n")
    with pytest.raises(InputError, match=r"a\.toml is not valid TOML"):
        Recipe.load(path)
    path.write_text("[optimizer]\nlr = 0.1\n")
    with pytest.raises(InputError, match=r"needs at least one \[\[phases\]\]"):
        Recipe.load(path)
    path.write_text("[[phases]]\nmax_length = 128\n")
    with pytest.raises(InputError, match=r"phases\.0 lacks steps"):
        Recipe.load(path)
    path.write_text("run = 3\n[[phases]]\nsteps = 1\n")
    with pytest.raises(InputError, match="run = 3 must be a table"):
        Recipe.load(path)
