/** The domain that all other files of this folder declare their elements on. */
import { Domain } from "protean";

export const domain = new Domain("fidelis");
