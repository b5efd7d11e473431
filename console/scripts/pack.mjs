// Writes the compressed twins beside the built files and holds the whole to its budget.
//
//   node scripts/pack.mjs            pack dist/, print the sizes, fail above the budget
//   node scripts/pack.mjs --check    build anew beside dist/ and fail on any difference
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { brotliCompressSync, brotliDecompressSync, constants, gunzipSync, gzipSync } from 'node:zlib'

/** Everything the console may weigh, in bytes of brotli. */
const BUDGET_BYTES = 500_000
const TWINS = /\.(br|gz)$/
const here = dirname(dirname(fileURLToPath(import.meta.url)))
const dist = join(here, 'dist')

function files(folder) {
  return readdirSync(folder, { recursive: true })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile())
    .sort()
}

function pack(folder) {
  let total = 0
  for (const path of files(folder)) {
    if (TWINS.test(path)) continue
    const plain = readFileSync(path)
    const br = brotliCompressSync(plain, {
      params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: plain.length },
    })
    writeFileSync(`${path}.br`, br)
    writeFileSync(`${path}.gz`, gzipSync(plain, { level: 9 }))
    total += br.length
    console.log(`${String(br.length).padStart(8)} B  ${relative(folder, path)}`)
  }
  console.log(`${String(total).padStart(8)} B  of ${BUDGET_BYTES} B brotli, ${Math.round((100 * total) / BUDGET_BYTES)} %`)
  if (total > BUDGET_BYTES) throw new Error(`the console weighs ${total} B, more than its ${BUDGET_BYTES} B`)
}

/** The twins are compared by what they unpack to: another version of Node may pack otherwise. */
function check() {
  const fresh = mkdtempSync(join(tmpdir(), 'console-'))
  try {
    execFileSync('npx', ['--no-install', 'vite', 'build', '--logLevel', 'warn'], {
      cwd: here, stdio: 'inherit', env: { ...process.env, CONSOLE_OUT: fresh },
    })
    const wanted = new Map(files(fresh).map((path) => [relative(fresh, path), readFileSync(path)]))
    const faults = []
    for (const [name, content] of wanted) {
      const read = (suffix, unpack) => {
        try {
          return unpack(readFileSync(join(dist, name + suffix)))
        } catch {
          return null
        }
      }
      const held = [['', read('', (raw) => raw)], ['.br', read('.br', brotliDecompressSync)], ['.gz', read('.gz', gunzipSync)]]
      for (const [suffix, bytes] of held) {
        if (bytes === null) faults.push(`${name}${suffix} is missing or damaged`)
        else if (!bytes.equals(content)) faults.push(`${name}${suffix} is not what the sources give`)
      }
    }
    for (const path of files(dist)) {
      const name = relative(dist, path).replace(TWINS, '')
      if (!wanted.has(name)) faults.push(`${relative(dist, path)} comes from no source`)
    }
    if (faults.length > 0) throw new Error(`dist/ is stale; run \`npm run build\`:\n  ${faults.join('\n  ')}`)
    console.log(`dist/ is what the sources give: ${wanted.size} files`)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}

try {
  if (process.argv.includes('--check')) {
    check()
    pack(dist)
  } else pack(dist)
} catch (error) {
  console.error(String(error.message ?? error))
  process.exit(1)
}
