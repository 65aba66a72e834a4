"""What type checkers know of `trio_wsk`. Nothing here is run: mypy and basedpyright read it.

``assert_type`` says what a call reveals. A line that has to be an error has a ``type: ignore``,
and both checkers complain when it turns out not to be needed.
"""
