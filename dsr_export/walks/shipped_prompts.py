"""Prompts to calibrate with where none are given: short and long ones, of things, people, places, styles and writing.

Any few of the first are unlike each other, as few images are the rule.
"""

SHIPPED = (
    "a red bicycle leaning against a brick wall",
    "portrait of an old fisherman with a grey beard, soft window light, photograph",
    "a valley full of wild flowers below snowy mountains at sunrise, wide view, very detailed",
    "a blue sign that says OPEN",
    "two dogs running on a beach",
    "an astronaut reading a newspaper in a small cafe, oil painting with thick brush strokes",
    "a bowl of ramen with an egg and spring onions, seen from above",
    "the inside of a cathedral, rays of coloured light falling through tall windows onto an empty stone floor, dust "
    "in the air, a single person in a yellow coat far away, cinematic, high contrast",
    "cat",
    "a paper boat on a puddle in the rain, macro photograph, shallow depth of field",
    "isometric drawing of a tiny bookshop with a striped awning and a cat on its roof",
    "a crowded night market with lanterns and steam, people buying fruit",
    "black and white pencil sketch of an elephant",
    "a glass sphere on a wooden table reflecting a garden",
    "children's book illustration of a fox and an owl drinking tea under a mushroom, watercolour, pastel colours",
    "an abandoned railway station overgrown with ivy, fog, early morning",
)
