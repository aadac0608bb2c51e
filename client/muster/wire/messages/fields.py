"""Field types that several messages share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from muster.wire.base import CRC32C_PATTERN, ENROLMENT_PATTERN, NAME_PATTERN, SHA256_PATTERN

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]
Crc32c = Annotated[str, Field(pattern=CRC32C_PATTERN)]  # big-endian, in base64, as in Cloud Storage
EnrolmentId = Annotated[str, Field(pattern=ENROLMENT_PATTERN)]
