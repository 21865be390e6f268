"""What a client of OpenAI's chat completions sends, and a few fields of our own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from data.messages import Message, Part

Text = Annotated[str, Field(max_length=1_000_000)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ImageUrl(_Strict):
    """An image: a data URL, or an address where the server allows them; ``tokens`` is ours."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"
    tokens: int | None = Field(None, ge=1, le=2**14, description="embeddings that this image becomes")


class ImagePart(_Strict):
    """An image among the parts of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(_Strict):
    """Words among the parts of a message."""

    type: Literal["text"]
    text: Text


class Turn(_Strict):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    name: str | None = None

    def parts(self) -> list[TextPart | ImagePart]:
        """Returns the content as parts."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content

    def message(self) -> Message:
        """Returns the message as prompts take it; images are named by their order."""
        content: list[Part] = [
            {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
            for part in self.parts()
        ]
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(_Strict):
    """What else a stream has."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Strict):
    """A request for chat completions. What is not known is refused, and so nothing is silently left out."""

    messages: list[Turn] = Field(min_length=1, max_length=1000)
    model: str | None = Field(None, description="as /v1/models names it")
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2, description="0, the default, takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int = Field(1, ge=1, le=128)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    image_tokens: int | None = Field(None, ge=1, le=2**14, description="embeddings that each image becomes")
    image_size: int | None = Field(None, ge=1, description="see whole images at about so many pixels squared")
    explain: bool = Field(False, description="also tell where the model looked for each word")
    # taken from clients that always send them, and without effect here
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def images(self) -> list[ImageUrl]:
        """The images of all messages, in order."""
        return [part.image_url for turn in self.messages for part in turn.parts() if isinstance(part, ImagePart)]
