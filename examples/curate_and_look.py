"""Curate a folder of footage and look at the result.

python examples/curate_and_look.py footage work
"""

# %% Curate. Prompts are in files beside the films, such as film.txt for film.mp4. Running it again does only what is new.
import sys

import realdpo

footage, folder = sys.argv[1:3]
work = realdpo.Workspace(folder)
result = realdpo.curate.ingest(work, footage, target="tiny", caption="sidecar")
print(result["dropped"])

# %% Tables are data frames. Every clip has its scores, kept or not.
clips = work.clips.to_pandas()
print(clips[["clip_id", "start_s", "end_s", "keep", "prompt"]])
print(work.clips.scores[["motion.subject", "detail.sharpness", "luma.mean"]].describe())

# %% Why clips were dropped.
print(clips.loc[~clips.keep, "reasons"].explode().value_counts())

# %% What would other thresholds keep? Nothing is decoded; without write=False it is stored.
other = realdpo.curate.apply_thresholds(work, {"motion.subject_min": 0.1}, write=False)
print(other["kept_before"], "->", other["kept"], other["dropped"])

# %% The scores and shots of one file, without a workspace.
film = work.sources.to_pandas().path[0]
print(realdpo.curate.scores.of(film)["motion.subject"])
for shot in realdpo.curate.shots.of(film):
    print(f"shot {shot.shot}: {float(shot.start):.2f} to {float(shot.end):.2f} s")
