/** Which devices there are. The address holds the filter; the list goes on as far as there is more. */
import { Anchor, Button, Group, Loader, Pill, Select, SimpleGrid, Stack, Table, TagsInput, Text, TextInput } from '@mantine/core'
import { useDebouncedCallback, useIntersection } from '@mantine/hooks'
import { useInfiniteQuery } from '@tanstack/react-query'
import { Link, useNavigate } from '@tanstack/react-router'
import { useEffect, useState, type ReactNode } from 'react'

import { devicePage, type DeviceFilter } from '../api/queries'
import type { DeviceRow } from '../api/types'
import { devicesRoute } from '../app/router'
import { Ago, Empty, PageHead, Problem } from '../parts/common'
import { DeviceState } from '../parts/state'
import { isObject, type Json } from '../pure/json'
import { count } from '../pure/time'

/** Typing pauses so long before the hub is asked, in milliseconds. */
const TYPING_MS = 250
const PAGE = 100

export function Devices(): ReactNode {
  const filter = devicesRoute.useSearch()
  const list = useInfiniteQuery({
    queryKey: ['devices', filter],
    queryFn: ({ pageParam, signal }) => devicePage(filter, pageParam, PAGE, signal),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (page) => page.next ?? undefined,
  })
  const rows = list.data?.pages.flatMap((page) => page.devices) ?? []
  const scanned = list.data?.pages.reduce((sum, page) => sum + page.scanned, 0) ?? 0
  const filtered = Object.values(filter).some((value) => value !== undefined)
  return (
    <>
      <PageHead title="Devices">
        <Text size="sm" c="dimmed" role="status">
          {list.isLoading ? 'reading…' : `${count(rows.length)} shown${list.hasNextPage ? ', more below' : ''}`}
        </Text>
      </PageHead>
      <Filters filter={filter} />
      {list.error && <Problem error={list.error} what="The devices cannot be read" retry={() => void list.refetch()} />}
      {!list.isLoading && !list.error && rows.length === 0 && !list.hasNextPage && <Nothing filtered={filtered} />}
      {rows.length > 0 && <Rows rows={rows} />}
      {list.hasNextPage && <More busy={list.isFetchingNextPage} scanned={scanned} found={rows.length} go={() => void list.fetchNextPage()} />}
    </>
  )
}

function Filters({ filter }: { filter: DeviceFilter }): ReactNode {
  const navigate = useNavigate()
  const [text, setText] = useState(filter.search ?? '')
  useEffect(() => setText(filter.search ?? ''), [filter.search])
  const set = (part: DeviceFilter): void => void navigate({ to: '/devices', search: (held) => ({ ...held, ...part }), replace: true })
  const type = useDebouncedCallback((search: string) => set({ search: search || undefined }), TYPING_MS)
  return (
    <SimpleGrid cols={{ base: 2, md: 5 }} mb="md" spacing="sm">
      <TextInput
        label="Device id"
        placeholder="any part of it"
        value={text}
        onChange={(event) => {
          setText(event.currentTarget.value)
          type(event.currentTarget.value)
        }}
      />
      <TagsInput label="Tags" placeholder={filter.tag ? '' : 'site=paris, then Enter'} value={filter.tag ?? []} onChange={(tag) => set({ tag: tag.length > 0 ? tag : undefined })} clearable />
      <Choice label="Connection" value={filter.connection} set={(connection) => set({ connection })} options={[['connected', 'connected'], ['disconnected', 'disconnected'], ['stale', 'stale'], ['neverSeen', 'never seen']]} />
      <Choice label="Status" value={filter.status} set={(status) => set({ status })} options={[['enabled', 'enabled'], ['disabled', 'disabled']]} />
      <Choice label="Kind" value={filter.edge} set={(edge) => set({ edge })} options={[['true', 'edge devices'], ['false', 'other devices']]} />
    </SimpleGrid>
  )
}

function Choice({ label, value, set, options }: { label: string; value: string | undefined; set: (value: string | undefined) => void; options: [string, string][] }): ReactNode {
  return <Select label={label} placeholder="any" value={value ?? null} data={options.map(([held, words]) => ({ value: held, label: words }))} onChange={(chosen) => set(chosen ?? undefined)} clearable />
}

function Nothing({ filtered }: { filtered: boolean }): ReactNode {
  if (filtered) {
    return (
      <Empty title="No device fits this filter">
        Search looks for any part of the id, without regard to case; a tag is written as <code>path=value</code>. <Link to="/devices">Show all devices</Link>
      </Empty>
    )
  }
  return (
    <Empty title="No devices yet" commands={['selvedge device create sensor-1', 'selvedge device connection-string sensor-1 --show-secrets']}>
      Register one; give its connection string to any Azure IoT device SDK.
    </Empty>
  )
}

function Rows({ rows }: { rows: DeviceRow[] }): ReactNode {
  return (
    <Table.ScrollContainer minWidth={560} scrollAreaProps={{ viewportProps: { tabIndex: 0, 'aria-label': 'Devices' } }}>
      <Table highlightOnHover>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Device</Table.Th>
            <Table.Th>State</Table.Th>
            <Table.Th>Last seen</Table.Th>
            <Table.Th>Kind</Table.Th>
            <Table.Th>Tags</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {rows.map((row) => (
            <Table.Tr key={row.deviceId}>
              <Table.Td>
                <Anchor component={Link} to={`/devices/${encodeURIComponent(row.deviceId)}`} fw={600} size="sm">
                  {row.deviceId}
                </Anchor>
              </Table.Td>
              <Table.Td>
                <DeviceState device={row} />
              </Table.Td>
              <Table.Td className="nowrap">
                <Ago time={row.lastActivityTime} />
              </Table.Td>
              <Table.Td>{row.iotEdge ? 'edge' : 'device'}</Table.Td>
              <Table.Td>
                <Tags tags={row.tags} />
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  )
}

const TAGS_SHOWN = 4

/** Each tag adds itself to the filter. */
export function Tags({ tags }: { tags: Json }): ReactNode {
  const flat: string[] = []
  const visit = (value: Json, path: string): void => {
    if (isObject(value)) for (const [key, inner] of Object.entries(value)) visit(inner, path === '' ? key : `${path}.${key}`)
    else if (!Array.isArray(value)) flat.push(`${path}=${String(value)}`)
  }
  visit(tags, '')
  return (
    <Group gap={4}>
      {flat.slice(0, TAGS_SHOWN).map((tag) => (
        <Link key={tag} to="/devices" search={{ tag: [tag] }} aria-label={`Devices with tag ${tag}`}>
          <Pill>{tag}</Pill>
        </Link>
      ))}
      {flat.length > TAGS_SHOWN && (
        <Text size="xs" c="dimmed">
          and {flat.length - TAGS_SHOWN} more
        </Text>
      )}
    </Group>
  )
}

/** The next page is read when its place comes into view. */
function More({ busy, scanned, found, go }: { busy: boolean; scanned: number; found: number; go: () => void }): ReactNode {
  const { ref, entry } = useIntersection({ threshold: 0 })
  const seen = entry?.isIntersecting === true
  useEffect(() => {
    // A filter that finds nothing waits for the person instead of reading the whole fleet.
    if (seen && !busy && found > 0) go()
  }, [seen, busy])
  return (
    <Stack ref={ref} align="center" py="md">
      {busy ? (
        <Loader size="sm" aria-label="Reading more devices" />
      ) : (
        <Button variant="default" onClick={go}>
          {found === 0 ? `Nothing among the first ${count(scanned)} devices. Look further` : 'Show more'}
        </Button>
      )}
    </Stack>
  )
}
