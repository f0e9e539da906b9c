"""Build preference pairs from a curated workspace, train the tiny model, sample and evaluate it.

python examples/pairs_and_training.py work
"""

# %% What does the model make of every prompt and first frame? Those videos are the losers.
import sys

import realdpo

work = realdpo.Workspace(sys.argv[1])
quick = {"steps": 2, "guidance": 1.0}  # of sampling; leave it out for the model's own settings
summary = realdpo.pairs.build(work, model="tiny", losers=1, **quick)
print(summary)

# %% Train adapters on them. `on_step` gets every step's numbers.
run = realdpo.train(
    work,
    model="tiny",
    name="example",
    steps=3,
    on_step=lambda numbers: print(f"step {numbers['step']}: loss {numbers['loss']:.4f}"),
)
print(run.log.to_pandas()[["step", "loss", "grad_norm"]])

# %% The weights are LoRA weights as diffusers loads them.
print("pipe.load_lora_weights", run.weights)

# %% Look at what it makes, beside its base and guided by it.
made = realdpo.sample(run, split="train", limit=1, guide=1.0, seeds=1, **quick)
print(made["page"])

# %% Compare the tuned model with its base on the same prompts and seeds.
evidence = realdpo.evaluate(
    work, systems={"base": "tiny", "ours": run}, split="train", prompts=1, seeds=1, **quick
)
print(evidence)
