"""The words that everybody uses: statuses, addresses, errors, verdicts, records, counts.

Values, and what may be said of them; each is made once and looked at by all. What is public here is
exported by `trio_wsk` and `trio_wsk.observers`.

Never here: a socket, a task, a clock. (Errors inherit from Trio's, and nothing else of Trio is
known.)
"""
