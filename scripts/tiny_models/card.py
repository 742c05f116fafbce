"""The model card of a base model."""

CARD = """---
license: apache-2.0
library_name: transformers
tags: [textworld, tiny, r2v]
---
# r2v TextWorld base model, size `{name}`

Stands in for a pretrained backbone on machines without one. It reads and acts in generated \
TextWorld quests in the plain
text style, and knows nothing else.

| | |
|---|---|
| architecture | Qwen3, {parameters:.2f} M parameters, hidden {recipe.hidden}, \
{recipe.layers} layers, vocabulary {vocabulary} |
| file | bfloat16 safetensors, {megabytes:.1f} MB |
| games | {games} generated quests (2-6 expert steps, 1-4 rooms) |
| data | {transcripts} won episodes: {expert} with {detours} random detours; \
{perturbed:.0%} of them perturbed |
| disjointness | the games are the split `base`; runs draw train, validation, calibration \
and test; a test compares their ids |
| entities | renumbered at random in every pass, names drawn from the games' own \
distribution, so that names are copied and not memorised |
| loss | cross-entropy, {imitated} 1, everything else {lm_weight} |
| optimizer | Muon (lr 0.02) for matrices, AdamW (lr 0.004) for the rest, {steps} steps of \
{tokens} tokens, {precision} |
| held out | {held_out:.3f} nats an action token, on {held_out_games:.0%} of the games |
| made by | `scripts.tiny_models.play`, then `scripts.tiny_models.train` (Makefile) |
| time | {minutes:.1f} minutes of training on {machine}, plus generating and playing the games |
"""
