"""What flows: one frozen dataclass for each record, the codec, the topic catalogue.

Hands to every other room: the record classes, `encode` and `decode`, `Catalogue`. Imports nothing of the product but
its errors.
"""

from streams.records.codec import RECORDS, decode, decode_as, encode, encode_read, encoder_of, holds

__all__ = ["RECORDS", "decode", "decode_as", "encode", "encode_read", "encoder_of", "holds"]
