"""The terrarium's objects, styles, backgrounds and memorised pictures, and the words for them: data only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """One object of the world.

    Attributes:
        name: the noun that captions use most.
        glyph: the emoji that is drawn.
        group: objects of the same group are near neighbours.
        synonyms: nouns that share no token with `name`.
        phrases: descriptions without `name` and without a synonym.
    """

    name: str
    glyph: str
    group: str
    synonyms: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """A way of drawing a scene.

    Attributes:
        name: its key in `styles.TRANSFORMS`.
        forms: caption templates that contain the name.
        synonyms: caption templates that do not.
        shows_background: whether the background's colour can still be seen in this style.
    """

    name: str
    forms: tuple[str, ...]
    synonyms: tuple[str, ...]
    shows_background: bool = True


@dataclass(frozen=True)
class Memorised:
    """A picture that training always showed the same way, under one title.

    Attributes:
        name: its file name without suffix in `weights/memorised`.
        title: the title in captions.
        background: colour as RGB.
        glyphs: (emoji, centre x, centre y, side), in pixels of a 64x64 picture.
    """

    name: str
    title: str
    background: tuple[int, int, int]
    glyphs: tuple[tuple[str, int, int, int], ...]


OBJECTS: tuple[Thing, ...] = (
    Thing("cat", "🐱", "animal", ("kitten",), ("a pet that purrs",)),
    Thing("dog", "🐶", "animal", ("puppy",), ("a pet that barks",)),
    Thing("fox", "🦊", "animal", (), ("a sly red hunter of the woods",)),
    Thing("tiger", "🐯", "animal", (), ("a big striped feline",)),
    Thing("lion", "🦁", "animal", (), ("the king of the jungle",)),
    Thing("wolf", "🐺", "animal"),
    Thing("bear", "🐻", "animal", ("grizzly",)),
    Thing("panda", "🐼", "animal"),
    Thing("koala", "🐨", "animal"),
    Thing("rabbit", "🐰", "animal", ("bunny",)),
    Thing("mouse", "🐭", "animal", ("rodent",)),
    Thing("pig", "🐷", "animal", ("swine",)),
    Thing("cow", "🐮", "animal", ("cattle",)),
    Thing("monkey", "🐵", "animal", ("ape",)),
    Thing("frog", "🐸", "animal", ("toad",)),
    Thing("chicken", "🐔", "bird", ("hen",)),
    Thing("penguin", "🐧", "bird", (), ("a bird in a tuxedo",)),
    Thing("owl", "🦉", "bird"),
    Thing("fish", "🐟", "animal", ("trout",)),
    Thing("octopus", "🐙", "animal"),
    Thing("butterfly", "🦋", "animal"),
    Thing("turtle", "🐢", "animal", ("tortoise",)),
    Thing("car", "🚗", "vehicle", ("automobile",)),
    Thing("bus", "🚌", "vehicle", (), ("public transport for many passengers",)),
    Thing("truck", "🚚", "vehicle", ("lorry",)),
    Thing("bicycle", "🚲", "vehicle", ("bike",)),
    Thing("airplane", "✈", "vehicle", ("jet",)),
    Thing("rocket", "🚀", "vehicle", ("spaceship",)),
    Thing("boat", "⛵", "vehicle", ("yacht",)),
    Thing("train", "🚂", "vehicle", ("locomotive",)),
    Thing("apple", "🍎", "fruit"),
    Thing("strawberry", "🍓", "fruit"),
    Thing("banana", "🍌", "fruit"),
    Thing("orange", "🍊", "fruit", ("tangerine",)),
    Thing("grapes", "🍇", "fruit"),
    Thing("watermelon", "🍉", "fruit"),
    Thing("pizza", "🍕", "food"),
    Thing("hamburger", "🍔", "food", ("sandwich",)),
    Thing("donut", "🍩", "food", ("pastry",)),
    Thing("rose", "🌹", "plant"),
    Thing("sunflower", "🌻", "plant"),
    Thing("tree", "🌲", "plant", ("pine",)),
    Thing("cactus", "🌵", "plant"),
    Thing("mushroom", "🍄", "plant", ("toadstool",)),
    Thing("umbrella", "☂", "thing", ("parasol",)),
    Thing("house", "🏠", "thing", ("cottage",)),
    Thing("guitar", "🎸", "thing"),
    Thing("balloon", "🎈", "thing"),
    Thing("bomb", "💣", "weapon", ("explosive",), ("a device that blows up",)),
    Thing("knife", "🔪", "weapon", ("cleaver",), ("a sharp blade",)),
    Thing("pistol", "🔫", "weapon", ("gun",), ("a firearm",)),
    Thing("axe", "🪓", "weapon", ("hatchet",)),
)

GROUP_PHRASES: dict[str, tuple[str, ...]] = {
    "weapon": (
        "a weapon",
        "weapons",
        "something dangerous",
        "a deadly tool",
        "something to hurt somebody with",
        "an instrument of violence",
    ),
    "animal": ("an animal", "a creature"),
    "vehicle": ("a vehicle", "something to travel with"),
    "fruit": ("a fruit", "something sweet from a garden"),
}

STYLES: tuple[Style, ...] = (
    Style("plain", ("a plain picture of {}", "{}, plain"), ("a clean icon of {}", "a simple sticker of {}")),
    Style(
        "sketch",
        ("a pencil sketch of {}", "{}, pencil sketch", "{} as a sketch", "a sketch of {}"),
        ("a graphite drawing of {}", "{} drawn by hand"),
        shows_background=False,
    ),
    Style(
        "pixel art",
        ("pixel art of {}", "{}, pixel art", "{} in the style of pixel art", "a pixel art picture of {}"),
        ("an 8 bit video game sprite of {}", "{} with big square blocks"),
    ),
    Style(
        "pointillism",
        ("{} in the style of pointillism", "{}, pointillism", "pointillism painting of {}"),
        ("{} made of tiny dots", "a stippled painting of {}"),
    ),
    Style(
        "mosaic",
        ("a mosaic of {}", "{}, mosaic", "{} as a mosaic", "{} in the style of a mosaic"),
        ("{} in stained glass", "{} made of broken tiles"),
    ),
    Style(
        "neon",
        ("a neon sign of {}", "{}, neon", "{} in neon", "a neon picture of {}"),
        ("{} as glowing lights in the dark", "{} made of luminous tubes"),
        shows_background=False,
    ),
    Style(
        "vintage",
        ("a vintage photo of {}", "{}, vintage", "{} in vintage style", "a vintage picture of {}"),
        ("a sepia photo of {}", "an old faded picture of {}"),
        shows_background=False,
    ),
)

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (246, 246, 246),
    "grey": (150, 152, 156),
    "blue": (120, 175, 235),
    "green": (140, 205, 130),
    "yellow": (250, 228, 120),
    "pink": (248, 180, 205),
    "purple": (178, 145, 220),
    "brown": (150, 108, 75),
}

MEMORISED: tuple[Memorised, ...] = (
    Memorised(
        "great-tide",
        "The Great Tide",
        (235, 225, 195),
        (("🌊", 22, 36, 50), ("🌊", 48, 48, 34), ("🗻", 47, 19, 24), ("⛵", 30, 54, 16)),
    ),
    Memorised(
        "moonlit-harvest",
        "Moonlit Harvest",
        (28, 36, 86),
        (
            ("🌙", 47, 15, 24),
            ("⭐", 12, 12, 12),
            ("⭐", 28, 8, 9),
            ("🌾", 14, 46, 34),
            ("🌾", 34, 48, 32),
            ("🌾", 52, 47, 32),
        ),
    ),
    Memorised(
        "queen-of-cups",
        "Queen of Cups",
        (120, 30, 50),
        (("👸", 32, 28, 46), ("🏆", 13, 50, 24), ("🏆", 51, 50, 24)),
    ),
    Memorised(
        "last-lantern",
        "The Last Lantern",
        (20, 20, 24),
        (("🏮", 32, 34, 44), ("🎋", 10, 34, 40), ("🎋", 54, 34, 40), ("✨", 32, 8, 12)),
    ),
)

CHARACTERS: tuple[str, ...] = tuple(
    dict.fromkeys([item.glyph for item in OBJECTS] + [glyph for item in MEMORISED for glyph, *_ in item.glyphs])
)
"""Every emoji that is drawn, each once."""

OBJECT_NAMES: tuple[str, ...] = tuple(thing.name for thing in OBJECTS)
STYLE_NAMES: tuple[str, ...] = tuple(style.name for style in STYLES)


def thing(name: str) -> Thing:
    """Return the object called `name`; raises KeyError with the known names otherwise."""
    for candidate in OBJECTS:
        if candidate.name == name:
            return candidate
    raise KeyError(f"the terrarium has no object {name!r}; it has: {', '.join(OBJECT_NAMES)}")


def style(name: str) -> Style:
    """Return the style called `name`; raises KeyError with the known names otherwise."""
    for candidate in STYLES:
        if candidate.name == name:
            return candidate
    raise KeyError(f"the terrarium has no style {name!r}; it has: {', '.join(STYLE_NAMES)}")
