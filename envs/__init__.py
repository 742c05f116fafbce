"""Gymnasium environments. Importing this package registers them; every process that makes one must
import it.
"""

from gymnasium.envs.registration import register, registry

from envs.perturbation.lexicon import Lexicon

ENVIRONMENTS = {
    "r2v/TextWorld-v0": "envs.textworld.env:TextWorldEnv",
    "r2v/Simulated-v0": "envs.simulated.env:SimulatedEnv",
    "r2v/HumanEvalPlus-v0": "envs.coding.env:CodeEnv",
    "r2v/MBPPPlus-v0": "envs.coding.env:CodeEnv",
}

for _name, _entry_point in ENVIRONMENTS.items():
    if _name not in registry:
        # Agents send free text, so the passive checker's per-step space checks only cost time here;
        # tests run check_env.
        register(_name, entry_point=_entry_point, disable_env_checker=True, order_enforce=False)


def _textworld_lexicon() -> Lexicon:
    from envs.textworld.env import LEXICON

    return LEXICON


def _simulated_lexicon() -> Lexicon:
    from envs.simulated.env import LEXICON

    return LEXICON


def _code_lexicon() -> Lexicon:
    from envs.coding.env import LEXICON

    return LEXICON


LEXICONS = {
    "r2v/TextWorld-v0": _textworld_lexicon,
    "r2v/Simulated-v0": _simulated_lexicon,
    "r2v/HumanEvalPlus-v0": _code_lexicon,
    "r2v/MBPPPlus-v0": _code_lexicon,
}
"""What misleading text says in each environment."""
