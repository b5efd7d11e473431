/** Tags, desired and reported properties: what is wanted, what the device makes of it. */
import { Alert, Button, Card, Group, Modal, SegmentedControl, Select, SimpleGrid, Skeleton, Stack, Text, Title } from '@mantine/core'
import { useDebouncedValue } from '@mantine/hooks'
import { notifications } from '@mantine/notifications'
import { keepPreviousData, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { Suspense, useEffect, useMemo, useState, type ReactNode } from 'react'

import { Failure } from '../../api/client'
import { currentContent, saveTwin, twinQuery, validate } from '../../api/queries'
import type { Twin } from '../../api/types'
import { twinRoute } from '../../app/router'
import { Changes } from '../../parts/changes'
import type { Marked } from '../../parts/code'
import { AsOf, Command, Problem } from '../../parts/common'
import { later } from '../../parts/later'
import { Meanwhile } from '../../parts/meanwhile'
import { State } from '../../parts/state'
import { composed, inTwin, MANIFEST_MODULES } from '../../pure/compose'
import { applyPatch, changes, mergePatch } from '../../pure/diff'
import { isObject, plain, pretty, type JsonObject } from '../../pure/json'
import { lineOf, Mistake, pathKey, readPlaces } from '../../pure/places'
import { acknowledgements, twinFaults } from '../../pure/twin-rules'
import { moduleNames, quoted, useDevice } from './context'

const Code = later(() => import('../../parts/code'))

type Section = 'desired' | 'tags'
const DEVICE = '(the device itself)'
/** Typing pauses so long before the hub is asked, in milliseconds. */
const TYPING_MS = 350

export function TwinPage(): ReactNode {
  const { id, view } = useDevice()
  const search = twinRoute.useSearch()
  const navigate = useNavigate()
  const module = search.module ?? null
  const section: Section = search.section === 'tags' ? 'tags' : 'desired'
  const { data, error, refetch, dataUpdatedAt } = useQuery(twinQuery(id, module))
  // The live view tells when a twin moved; then it is read again.
  const told = view.twins.find((twin) => twin.moduleId === module)
  const moved = told !== undefined && data !== undefined && told.version > data.version
  useEffect(() => {
    if (moved) void refetch()
  }, [moved, told?.version, refetch])
  const set = (part: Partial<typeof search>): void => void navigate({ to: '.', search: { ...search, ...part }, replace: true })
  return (
    <Stack gap="md">
      <Group gap="sm" align="flex-end">
        <Select label="Twin of" data={[DEVICE, ...moduleNames(view)]} value={module ?? DEVICE} onChange={(name) => set({ module: name === null || name === DEVICE ? undefined : name })} allowDeselect={false} w={230} />
        <SegmentedControl data={[{ value: 'desired', label: 'Desired' }, { value: 'tags', label: 'Tags' }]} value={section} onChange={(value) => set({ section: value === 'tags' ? 'tags' : undefined })} aria-label="Section of the twin" />
        {data && <AsOf time={dataUpdatedAt} seen={data.connectionState === 'Connected' ? undefined : data.lastActivityTime} />}
      </Group>
      {error && !data && <Problem error={error} what="The twin cannot be read" retry={() => void refetch()} />}
      {!data && !error && <Skeleton height={360} />}
      {data && <Editor key={`${id} ${module} ${section}`} device={id} module={module} section={section} twin={data} />}
    </Stack>
  )
}

const valuesOf = (twin: Twin, section: Section): JsonObject => (section === 'tags' ? twin.tags : plain(twin.properties.desired))

function Editor({ device, module, section, twin }: { device: string; module: string | null; section: Section; twin: Twin }): ReactNode {
  const [base, setBase] = useState(twin)
  const before = useMemo(() => valuesOf(base, section), [base, section])
  const [text, setText] = useState(() => pretty(before))
  const [saving, setSaving] = useState(false)
  const [goTo, setGoTo] = useState<{ at: number; count: number }>()
  const reported = plain(twin.properties.reported)
  const shape = useMemo(() => check(text, section, reported), [text, section, twin])
  const manifest = useManifest(device, section === 'desired' ? module : null, text, shape.value !== undefined)
  const read = useMemo(() => ({ value: shape.value, marks: [...shape.marks, ...manifest.marks] }), [shape, manifest.marks])
  const errors = read.marks.filter((mark) => mark.severity === 'error')
  const differs = read.value !== undefined ? mergePatch(before, read.value) : undefined
  const touched = text !== pretty(before)
  const theirs = useMemo(() => changes(before, valuesOf(twin, section)), [before, twin, section])
  const mine = useMemo(() => (read.value === undefined ? [] : changes(before, read.value)), [before, read.value])
  // What somebody else changed is taken over while nothing is being edited here.
  useEffect(() => {
    if (touched || twin.etag === base.etag) return
    setBase(twin)
    setText(pretty(valuesOf(twin, section)))
  }, [twin])

  const rebase = (): void => {
    const mine = read.value !== undefined ? (mergePatch(before, read.value) ?? {}) : {}
    setBase(twin)
    setText(pretty(applyPatch(valuesOf(twin, section), mine)))
  }
  const discard = (): void => {
    setBase(twin)
    setText(pretty(valuesOf(twin, section)))
  }
  return (
    <SimpleGrid cols={{ base: 1, lg: 2 }} spacing="md">
      <Stack gap="sm">
        <Title order={2}>{section === 'tags' ? 'Tags' : 'Desired properties'}</Title>
        {touched && theirs.length > 0 && (
          <Meanwhile what="this twin" theirs={theirs} mine={read.value === undefined ? undefined : mine} rebase={rebase} discard={discard} />
        )}
        <Suspense fallback={<Skeleton height={380} />}>
          <Code value={text} label={section === 'tags' ? 'Tags as JSON' : 'Desired properties as JSON'} change={setText} marks={read.marks} height="380px" goTo={goTo} />
        </Suspense>
        {manifest.error !== null && <Problem error={manifest.error} what="The hub cannot check the manifest that this is part of" />}
        <Faults text={text} marks={read.marks} open={(at) => setGoTo({ at, count: (goTo?.count ?? 0) + 1 })} />
        <Group gap="sm">
          <Button disabled={errors.length > 0 || differs === undefined || manifest.busy} onClick={() => setSaving(true)}>
            Review and save
          </Button>
          <Button variant="default" disabled={!touched} onClick={discard}>
            Undo all
          </Button>
          <Text size="sm" c="dimmed">
            {touched ? (differs === undefined ? 'Only the writing differs.' : `${mine.length} ${mine.length === 1 ? 'change' : 'changes'}`) : `as set, version ${section === 'desired' ? String(twin.properties.desired.$version ?? '–') : String(twin.version)}`}
          </Text>
        </Group>
      </Stack>
      <Stack gap="sm">
        <Title order={2}>Reported properties</Title>
        <Obeyed twin={twin} />
        <Suspense fallback={<Skeleton height={320} />}>
          <Code value={pretty(reported)} label="Reported properties as JSON" height="380px" />
        </Suspense>
        <Text size="sm" c="dimmed">
          Only the {module === null ? 'device' : 'module'} writes these; it is {twin.connectionState.toLowerCase()}.
        </Text>
      </Stack>
      {saving && read.value !== undefined && differs !== undefined && (
        <Review device={device} module={module} section={section} base={base} before={before} after={read.value} patch={differs} close={() => setSaving(false)} saved={(fresh) => {
          setBase(fresh)
          setText(pretty(valuesOf(fresh, section)))
        }} />
      )}
    </SimpleGrid>
  )
}

const NO_MARKS: Marked[] = []

/** What the hub's validator of manifests says to a twin that is part of one. */
function useManifest(device: string, module: string | null, text: string, readable: boolean): { marks: Marked[]; busy: boolean; error: Error | null } {
  const [asked] = useDebouncedValue(text, TYPING_MS)
  const part = module !== null && MANIFEST_MODULES.has(module) ? module : undefined
  const content = useQuery({ queryKey: ['content', device, 'parts'], queryFn: ({ signal }) => currentContent(device, signal), enabled: part !== undefined, staleTime: TYPING_MS })
  const set = content.data?.modulesContent
  const whole = useMemo(() => (part !== undefined && isObject(set) ? composed(set, part, asked) : undefined), [part, set, asked])
  const verdict = useQuery({ queryKey: ['validate', whole?.text], queryFn: ({ signal }) => validate(whole?.text ?? '', signal), enabled: whole !== undefined && readable, placeholderData: keepPreviousData, gcTime: 10_000 })
  const faults = verdict.data?.faults
  const stale = asked !== text || verdict.isPlaceholderData
  const marks = useMemo(() => (readable && whole !== undefined && faults !== undefined ? inTwin(faults, whole, asked.length) : NO_MARKS), [readable, whole, faults, asked.length])
  if (part === undefined) return { marks: NO_MARKS, busy: false, error: null }
  return { marks, busy: readable && (stale || verdict.isLoading), error: content.error ?? verdict.error }
}

function check(text: string, section: Section, reported: JsonObject): { value: JsonObject | undefined; marks: Marked[] } {
  try {
    const { value, places } = readPlaces(text)
    const marks = twinFaults(section, value, reported).map((fault): Marked => {
      const place = places.get(pathKey(fault.path)) ?? { from: 0, to: Math.min(1, text.length) }
      const name = fault.path.length === 0 ? 'this section' : fault.path.join('.')
      return { ...place, message: fault.message.startsWith('a key') ? fault.message : `${name} ${fault.message}`, severity: fault.severity }
    })
    return { value: isObject(value) ? value : undefined, marks }
  } catch (error) {
    if (!(error instanceof Mistake)) throw error
    return { value: undefined, marks: [{ from: error.at, to: error.at + 1, message: error.message, severity: 'error' }] }
  }
}

export function Faults({ text, marks, open }: { text: string; marks: Marked[]; open: (at: number) => void }): ReactNode {
  if (marks.length === 0) return null
  return (
    <Stack gap={2} role="list" aria-label="Faults">
      {marks.map((mark) => {
        const { line, column } = lineOf(text, mark.from)
        return (
          <div role="listitem" key={`${mark.from} ${mark.message}`} data-fault-line={line} data-fault-column={column}>
            <Button size="compact-sm" variant="subtle" color={mark.severity === 'error' ? 'thread' : 'denim'} onClick={() => open(mark.from)} styles={{ label: { whiteSpace: 'normal', textAlign: 'left', lineHeight: 1.35, height: 'auto' }, root: { height: 'auto', paddingBlock: 3 } }}>
              line {line}, column {column}: {mark.message}
            </Button>
          </div>
        )
      })}
    </Stack>
  )
}

const ACK_TONE = { obeyed: 'ok', refused: 'bad', default: 'quiet', waiting: 'warn' } as const
const ACK_WORDS = { obeyed: 'obeyed', refused: 'refused', default: 'its own default', waiting: 'not answered yet' } as const

/** What the module answered to each property, in plug-and-play's form. */
function Obeyed({ twin }: { twin: Twin }): ReactNode {
  const desired = plain(twin.properties.desired)
  const version = typeof twin.properties.desired.$version === 'number' ? twin.properties.desired.$version : 0
  const answers = acknowledgements(desired, version, plain(twin.properties.reported))
  const known = new Set(Object.keys(plain(twin.properties.reported)))
  const silent = answers.length > 0 ? Object.keys(desired).filter((key) => !known.has(key)) : []
  if (answers.length === 0) return null
  return (
    <Card padding="sm">
      <Stack gap={4}>
        {answers.map((answer) => (
          <Group key={answer.key} justify="space-between" gap="xs" data-answer={answer.key} data-answer-state={answer.state} data-answer-version={answer.version}>
            <Text size="sm" className="mono">
              {answer.key} = {JSON.stringify((twin.properties.reported[answer.key] as JsonObject).value) ?? '(not set)'}
            </Text>
            <State tone={ACK_TONE[answer.state]}>
              {ACK_WORDS[answer.state]}
              {answer.words && `: ${answer.words}`}
              {answer.state !== 'default' && answer.version !== undefined && ` (version ${answer.version})`}
            </State>
          </Group>
        ))}
        {silent.map((key) => (
          <Group key={key} justify="space-between">
            <Text size="sm" className="mono">
              {key}
            </Text>
            <State tone="warn">the module says nothing about it</State>
          </Group>
        ))}
      </Stack>
    </Card>
  )
}

type ReviewProps = { device: string; module: string | null; section: Section; base: Twin; before: JsonObject; after: JsonObject; patch: JsonObject; close: () => void; saved: (twin: Twin) => void }

/** The diff before it is saved; the etag makes sure that it is a diff to what is there. */
function Review({ device, module, section, base, before, after, patch, close, saved }: ReviewProps): ReactNode {
  const queries = useQueryClient()
  const { queryKey } = twinQuery(device, module)
  const body: JsonObject = section === 'tags' ? { tags: patch } : { properties: { desired: patch } }
  const save = useMutation({
    mutationFn: () => saveTwin(device, module, body, base.etag),
    onSuccess: (fresh) => {
      queries.setQueryData(queryKey, fresh)
      saved(fresh)
      notifications.show({ message: 'Saved. The device gets it at once if it is connected, or when it comes back.', color: 'teal' })
      close()
    },
  })
  const conflict = save.error instanceof Failure && save.error.status === 412
  const reload = (): void => {
    void queries.invalidateQueries({ queryKey })
    close()
  }
  const flag = section === 'tags' ? '--tags' : '--desired'
  return (
    <Modal opened onClose={close} title="Review the changes" size="xl" closeButtonProps={{ 'aria-label': 'Close' }}>
      <Stack>
        <Changes changes={changes(before, after)} />
        <Suspense fallback={<Skeleton height={220} />}>
          <Code value={pretty(after)} original={pretty(before)} label="Comparison" height="260px" />
        </Suspense>
        <Text size="sm">The same from a terminal:</Text>
        <Command text={`selvedge twin set ${quoted(device)}${module === null ? '' : ` -m ${quoted(module)}`} ${flag} '${JSON.stringify(patch).replaceAll("'", "'\\''")}'`} />
        {conflict ? (
          <Alert color="thread" variant="light" role="alert" title="Not saved: the twin was changed meanwhile">
            Somebody else saved after you loaded it, so this comparison is not true any more. Nothing is lost: your text stays in the editor, their changes are shown above it.
            <Group mt="sm">
              <Button size="xs" onClick={reload}>
                Show their changes
              </Button>
            </Group>
          </Alert>
        ) : (
          save.error && <Problem error={save.error} what="Not saved" />
        )}
        <Group justify="flex-end">
          <Button variant="default" onClick={close}>
            Back to the editor
          </Button>
          <Button onClick={() => save.mutate()} loading={save.isPending} disabled={conflict}>
            Save
          </Button>
        </Group>
      </Stack>
    </Modal>
  )
}
