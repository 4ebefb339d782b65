"""Write the free photographs of the pictures in README and docs: python3 -m docs.photographs FOLDER.

They come with scikit-image, which the tests install: Chelsea the cat (Stéfan van der Walt, CC0), the astronaut Eileen
Collins (NASA, public domain), a rocket (Falcon 9, SpaceX, public domain) and a cup of coffee (Rachel Michetti, CC0).
`pair.png` shows the astronaut beside the cat: an image of two classes.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

SIDE = 448  # height in pixels


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = {"cat": data.chelsea(), "astronaut": data.astronaut(), "rocket": data.rocket(), "coffee": data.coffee()}
    images = {name: Image.fromarray(photograph) for name, photograph in pixels.items()}
    images = {name: image.resize((round(image.width * SIDE / image.height), SIDE)) for name, image in images.items()}
    halves = images["astronaut"].crop((100, 0, 324, SIDE)), images["cat"].crop((270, 0, 494, SIDE))
    images["pair"] = Image.fromarray(np.concatenate(halves, axis=1))
    for name, image in images.items():
        image.save(folder / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to")
    main(parser.parse_args().folder)
