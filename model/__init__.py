"""The model: the protocol in Promela, checked exhaustively by Spin.

Purpose: show that no interleaving of crashes, retries, deadlines, deletion and take-over loses an
    acknowledged snapshot, and that each rule is needed: a variant without it fails.
"""
