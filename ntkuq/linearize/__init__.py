"""Linearize: the structured Jacobian and what follows from it."""

from ntkuq.linearize.curvature import AbstractCovariance as AbstractCovariance
from ntkuq.linearize.curvature import AbstractCurvature as AbstractCurvature
from ntkuq.linearize.curvature import FunctionSpace as FunctionSpace
from ntkuq.linearize.curvature import Slopes as Slopes
from ntkuq.linearize.curvature import WeightSpace as WeightSpace
from ntkuq.linearize.curvature import blocks as blocks
from ntkuq.linearize.curvature import function_space as function_space
from ntkuq.linearize.curvature import function_space_cost as function_space_cost
from ntkuq.linearize.curvature import weight_space as weight_space
from ntkuq.linearize.curvature import weight_space_cost as weight_space_cost
from ntkuq.linearize.curvature import whiten as whiten
from ntkuq.linearize.jacobian import Dense as Dense
from ntkuq.linearize.jacobian import Factors as Factors
from ntkuq.linearize.jacobian import Jacobian as Jacobian
from ntkuq.linearize.jacobian import Outer as Outer
from ntkuq.linearize.products import chunk_size as chunk_size
from ntkuq.linearize.products import dense as dense
from ntkuq.linearize.products import gram as gram
from ntkuq.linearize.products import map_chunks as map_chunks
from ntkuq.linearize.products import pull as pull
from ntkuq.linearize.products import push as push
from ntkuq.linearize.products import rows as rows
from ntkuq.linearize.sites import Plan as Plan
from ntkuq.linearize.sites import Site as Site
from ntkuq.linearize.sites import find_sites as find_sites
