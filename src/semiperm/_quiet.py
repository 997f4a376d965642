"""Keeps transformers from saying at every start that it does without torchvision, which is so on purpose."""

import logging

logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)
