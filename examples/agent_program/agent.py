"""An agent program that plays a TextWorld game: it knows the openai client, and nothing of r2v's
routers. `python agent.py GAME STEPS`; exit code 0 where it won."""

import sys

from openai import OpenAI

from envs.textworld.env import TextWorldEnv

game = TextWorldEnv(sys.argv[1], max_steps=int(sys.argv[2]))
model = OpenAI(max_retries=0)  # OPENAI_BASE_URL and OPENAI_API_KEY say where its model is
observation, info = game.reset()
messages = [{"role": "user", "content": f"Goal: {info['goal']}\n{observation}"}]
won = over = False
while not over:
    answer = model.chat.completions.create(model="r2v", messages=messages)
    action = answer.choices[0].message.content or "wait"
    observation, reward, won, truncated, info = game.step(action)
    messages.append({"role": "assistant", "content": action})
    messages.append({"role": "user", "content": observation})
    over = won or truncated
sys.exit(0 if reward > 0 else 1)
