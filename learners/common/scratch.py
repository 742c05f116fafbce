"""Random weights of the tiny architecture, for `slm.model: scratch`: trains from nothing."""

from pathlib import Path

from r2v_dist import files

TINY = Path(__file__).parents[2] / "models" / "textworld-tiny"


def make_scratch(output: Path, seed: int) -> None:
    """Publish a randomly initialised model with the tiny base model's shape and tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    scratch = output.with_name(output.name + ".tmp")
    AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(TINY), dtype=torch.float32
    ).save_pretrained(scratch)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(scratch)
    files.publish(scratch, output)
