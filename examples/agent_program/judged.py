"""Play TextWorld games through `r2v serve`, and say how each ended:

    python judged.py STEPS GAME...

`r2v estimate RUN` then tells what other thresholds come to (docs/gateway.md)."""

import sys

from openai import OpenAI

from envs.textworld.env import TextWorldEnv

model = OpenAI(max_retries=0)  # OPENAI_BASE_URL is the gateway's
for path in sys.argv[2:]:
    game = TextWorldEnv(path, max_steps=int(sys.argv[1]))
    observation, info = game.reset()
    messages = [{"role": "user", "content": f"Goal: {info['goal']}\n{observation}"}]
    over = False
    while not over:
        answer = model.chat.completions.create(model="r2v", messages=messages)
        action = answer.choices[0].message.content or "wait"
        observation, reward, ended, truncated, info = game.step(action)
        messages.append({"role": "assistant", "content": action})
        messages.append({"role": "user", "content": observation})
        over = ended or truncated
    model.post("/feedback", body={"id": answer.id, "success": reward > 0}, cast_to=object)
    print(path, "won" if reward > 0 else "lost")
