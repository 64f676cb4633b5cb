"""`mpk tune`: the simulator proposes, measurement decides, the choice is kept by shapes."""
