"""A service that runs for long, under all that may happen to it: what is left in the end?"""
