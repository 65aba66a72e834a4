"""What tests share: peers, wires, machines that lack something, programs."""
