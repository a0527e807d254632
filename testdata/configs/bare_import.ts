import { defineLoop } from '@skene/sdk';
import { z } from 'zod';
import fs from 'node:fs';
import { limits } from './missing';
import page from './bare_import.ts.golden';

export default defineLoop({ type: z.string(fs, limits, page), steps: [] });
