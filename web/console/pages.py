"""The pages of the console, each with its routes."""

from typing import Final

from fastapi import APIRouter

from web.console import assets, parcel, sign_in
