"""One episode of a roll-out in a fake environment: chunks, latched success, seeds, errors."""

from __future__ import annotations

import numpy as np
import pytest
from lara_policy.rollout.episode import Recording, run_episode
from rollout_fakes import FakeEnvironment, FakePolicy


@pytest.mark.parametrize(("executed", "predictions"), [(8, 5), (16, 3), (1, 40)])
def test_executed_steps_of_a_chunk_precede_the_next_observation(executed, predictions):
    policy, environment = FakePolicy(executed_steps=executed), FakeEnvironment()
    result = run_episode(policy, environment, 0, seed=0)
    assert (result.steps, result.predictions, len(policy.seen), environment.observe_calls) == (40, *[predictions] * 3)
    chunks = [policy.predict({}, seed=seed)[:executed] for seed in policy.seeds[:predictions]]
    assert np.array_equal(environment.actions, np.concatenate(chunks)[:40])


def test_the_caller_may_override_executed_and_maximum_steps():
    result = run_episode(FakePolicy(), FakeEnvironment(), 0, seed=0, executed_steps=4, max_steps=10)
    assert (result.steps, result.predictions) == (10, 3)
    with pytest.raises(ValueError, match="executed steps 17: takes 1 to 16"):
        run_episode(FakePolicy(), FakeEnvironment(), 0, seed=0, executed_steps=17)


def test_success_and_stages_are_latched_and_success_ends_the_episode():
    environment = FakeEnvironment(success_step=11, near_step=3)
    result = run_episode(FakePolicy(), environment, 0, seed=0)
    assert (result.success_step, result.steps, result.stages) == (11, 11, {"near_object": 3})
    assert len(environment.actions) == 11


def test_a_stage_that_is_never_reached_is_reported_as_none():
    result = run_episode(FakePolicy(), FakeEnvironment(), 0, seed=0)
    assert (result.success_step, result.stages, result.broken) == (None, {"near_object": None}, None)


def test_every_prediction_has_its_own_reproducible_seed():
    def seeds(**options):
        policy = FakePolicy()
        run_episode(policy, FakeEnvironment(), options.get("episode", 0), seed=options.get("seed", 0))
        return policy.seeds

    assert seeds() == seeds()
    everything = [*seeds(), *seeds(episode=1), *seeds(seed=1)]
    assert len(set(everything)) == len(everything) == 15


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros((16, 7)), r"metaworld:fake, episode 3, step 1: .*shape \(16, 7\); metaworld takes 4 numbers"),
        (np.zeros(4), r"step 1: .*an array of shape \(4,\)"),
        (np.zeros((8, 4)), "step 1: .*8 actions, its horizon is 16"),
    ],
)
def test_a_chunk_of_the_wrong_shape_names_the_task_and_the_step(chunk, message):
    policy = FakePolicy()
    policy.predict = lambda observation, *, seed: chunk
    with pytest.raises(ValueError, match=message):
        run_episode(policy, FakeEnvironment(), 3, seed=0)


def test_a_number_that_is_not_finite_names_the_task_and_the_step():
    policy, first = FakePolicy(), np.zeros((16, 4), np.float32)
    later = first.copy()
    later[2, 1] = np.nan
    chunks = iter([first, later])
    policy.predict = lambda observation, *, seed: next(chunks)
    with pytest.raises(ValueError, match=r"metaworld:fake, episode 3, step 9: .*nan for component 1 of action 2"):
        run_episode(policy, FakeEnvironment(), 3, seed=0)


def test_a_simulator_that_gives_up_is_no_success_and_no_crash():
    class Explodes(FakeEnvironment):
        def step(self, action):
            if len(self.actions) == 5:
                raise RuntimeError("the arm fell off")
            return super().step(action)

    result = run_episode(FakePolicy(), Explodes(), 0, seed=0)
    assert (result.success_step, result.steps, result.broken) == (None, 5, "step 6: RuntimeError: the arm fell off")


def test_an_error_of_the_policy_is_not_blamed_on_the_simulator():
    policy = FakePolicy()

    def predict(observation, *, seed):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    policy.predict = predict
    with pytest.raises(RuntimeError, match="mat1"):
        run_episode(policy, FakeEnvironment(), 0, seed=0)


def test_a_recording_has_an_image_before_each_action_and_one_at_the_end():
    recording, environment = Recording("observation.images.corner2"), FakeEnvironment(success_step=11)
    result = run_episode(FakePolicy(), environment, 0, seed=0, recording=recording)
    assert [int(frame[0, 0, 0]) for frame in recording.frames] == list(range(12))
    assert recording.chunk_starts == [0, 8]
    assert result == run_episode(FakePolicy(), FakeEnvironment(success_step=11), 0, seed=0)
