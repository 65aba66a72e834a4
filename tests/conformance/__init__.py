"""The conformance suite, over every transport there is, and over some that break its rules."""
