"""Speed and size, each measured against a named reference: both sides do the same work, or there is
no number.
"""
