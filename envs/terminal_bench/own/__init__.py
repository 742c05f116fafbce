"""The project's own tasks, in the style of Terminal-Bench. Scores on them are not comparable with
its leaderboard.
"""
