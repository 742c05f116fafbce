"""HumanEval+, MBPP+ and the shipped tasks: write a program, try it, submit it."""
