"""Play TextWorld games through `r2v serve`, and say how each ended:

    python judged.py STEPS GAME... [--model r2v-slm]

`r2v estimate RUN` then tells what other thresholds come to (docs/gateway.md)."""

import argparse

from openai import OpenAI

from envs.textworld.env import TextWorldEnv

parser = argparse.ArgumentParser()
parser.add_argument("steps", type=int)
parser.add_argument("games", nargs="+")
parser.add_argument("--model", default="r2v")
given = parser.parse_args()

model = OpenAI(max_retries=0)  # OPENAI_BASE_URL is the gateway's
won = answers = asked = 0
for path in given.games:
    game = TextWorldEnv(path, max_steps=given.steps)
    observation, info = game.reset()
    messages = [{"role": "user", "content": f"Goal: {info['goal']}\n{observation}"}]
    over = False
    while not over:
        answer = model.chat.completions.create(model=given.model, messages=messages)
        action = answer.choices[0].message.content or "wait"
        observation, reward, ended, truncated, info = game.step(action)
        messages.append({"role": "assistant", "content": action})
        messages.append({"role": "user", "content": observation})
        over = ended or truncated
        answers += 1
        asked += answer.r2v["route"] == "teacher"
    model.post("/feedback", body={"id": answer.id, "success": reward > 0}, cast_to=object)
    won += reward > 0
    print(path, "won" if reward > 0 else "lost", flush=True)
print(f"{won} of {len(given.games)} won, {asked} of {answers} answers by the teacher")
