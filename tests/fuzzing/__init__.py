"""Parsers that anybody can send octets to, and octets that a fuzzer has found for them.

`nox -s fuzz` has atheris look for octets that break a claim: it changes those that it has, and
keeps whatever goes another way through the code. What it has found before is in `corpus`, from
which it goes on, and which `test_corpus.py` tries in a moment.
"""
